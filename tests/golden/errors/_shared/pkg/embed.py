def run(record):
    return record
