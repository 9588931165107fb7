import json
import images
from pkg import embed


def count(record):
    return record
