import time


def work(record):
    time.sleep(record.get("wait", 0))
    if record.get("bad") in ['always']:
        raise ValueError(record["bad"])
    return None if record.get("skip") else {"n": record["n"]}
