"""Writes `rectangles.jsonl`: 120 rectangles."""

import json
from pathlib import Path

with Path(__file__).with_name("rectangles.jsonl").open("w") as stream:
    for number in range(120):
        stream.write(json.dumps({"id": number, "width": number % 12 + 1, "height": number // 12 + 1}) + "\n")
