def describe(record):
    return record
