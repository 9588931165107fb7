def page(record):
    return record
