import pkg


def count(record):
    return record
