"""Writes `texts.jsonl`: 200 sentences of three to twelve words, one of them empty."""

import json
import random
from pathlib import Path

WORDS = "a small grey heron stands by the quiet river and waits for one silver fish to pass"
chooser = random.Random(16)
with Path(__file__).with_name("texts.jsonl").open("w") as stream:
    for number in range(200):
        text = "" if number == 77 else " ".join(chooser.choices(WORDS.split(), k=chooser.randint(3, 12)))
        stream.write(json.dumps({"id": number, "text": text}) + "\n")
