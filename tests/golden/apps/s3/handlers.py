def shout(record):
    return record
