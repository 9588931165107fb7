def count(record:
    return record
