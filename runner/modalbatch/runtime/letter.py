"""Dead letters: what is kept of a record that used up its attempts. Runs on: container.

Owns the form of one (`guarantees.md` section 2). Memory: the record once more; 4 KiB of one that was too long to read.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from modalbatch.canonical import Json
from modalbatch.formats.jsonl import nesting
from modalbatch.records import Unit
from modalbatch.runtime.attempts import Item
from modalbatch.runtime.handler import Failure
from modalbatch.sources.lines import LongLine

#: Brackets in brackets in the record of a letter; deeper ones are kept as raw bytes.
MOST_NESTED = 200


def letter_of(item: Item, failed: Failure, *, unit: Unit, line_0: int, decode: Callable[[bytes], Any]) -> Json:
    """The dead letter of a record. `line_0`: the ordinal in the split of its unit's line 0."""
    ordinal = item.ordinal - line_0
    letter = {
        # Of the unit, not of the split: the same however inputs are packed and divided.
        "id": f"{unit.stem}-{ordinal}",
        "uri": unit.uri,
        "position": {"offset": None if item.offset < 0 else item.offset, "ordinal": ordinal},
        "cause": failed.cause,
        "error": failed.error,
        "attempts": failed.attempts,
    }
    return letter | _content(item, failed, decode)


def _content(item: Item, failed: Failure, decode: Callable[[bytes], Any]) -> Json:
    if item.offset < 0:
        return {"records": "unknown"}
    if isinstance(item.line, LongLine):
        return {"bytes": item.line.n_bytes, "head_base64": base64.b64encode(item.line.head).decode()}
    # What can just be read here may be too deep to be written, or for whoever reads letters.
    if failed.cause == "undecodable" or nesting(item.line) > MOST_NESTED:
        return {"raw_base64": base64.b64encode(item.line).decode()}
    return {"record": decode(item.line)}
