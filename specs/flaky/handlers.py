"""Does what its record says: works, raises, refuses, crashes or hangs."""

import os
import threading

import modalbatch

tried = set()


def work(record):
    """The square of `n`, unless `do` asks for trouble."""
    do = record.get("do")
    if do == "raise":
        raise ValueError(f"cannot work on {record['id']}")
    if do == "reject":
        raise modalbatch.Reject("not one of ours")
    if do == "once" and record["id"] not in tried:
        tried.add(record["id"])
        raise ConnectionError("try again")
    if do == "crash":
        os._exit(3)
    if do == "hang":
        threading.Event().wait()
    if do == "skip":
        return None
    return {"square": record["n"] ** 2}
