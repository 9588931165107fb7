"""Writes `numbers.jsonl`: 300 numbers, eight of them with trouble."""

import json
from pathlib import Path

TROUBLE = {
    17: "raise", 50: "reject", 60: "once", 99: "skip", 117: "raise", 150: "crash", 217: "raise", 250: "hang",
}  # fmt: skip
with Path(__file__).with_name("numbers.jsonl").open("w") as stream:
    for number in range(300):
        record = {"id": number, "n": number}
        if number in TROUBLE:
            record["do"] = TROUBLE[number]
        stream.write(json.dumps(record) + "\n")
