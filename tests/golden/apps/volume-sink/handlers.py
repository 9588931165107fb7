def area(record):
    return record
