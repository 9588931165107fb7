"""Dead letters: what is kept of a record that used up its attempts. Runs on: container.

Owns the form of one (`guarantees.md` section 2). Memory: the record once more; 4 KiB of one that was too long to read.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from modalbatch.formats.jsonl import nesting
from modalbatch.records import Json
from modalbatch.runtime.attempts import Item
from modalbatch.runtime.handler import Failure
from modalbatch.sources.lines import LongLine

#: Brackets in brackets in the record of a letter; deeper ones are kept as raw bytes.
MOST_NESTED = 200


def letter_of(
    item: Item, failed: Failure, *, split_id: str, uri: str, first: int, decode: Callable[[bytes], Any]
) -> Json:
    """The dead letter of a record. `first`: the ordinal of its unit's first line."""
    letter = {
        "id": f"{split_id}-{item.ordinal}",
        "uri": uri,
        "position": {"offset": None if item.offset < 0 else item.offset, "ordinal": item.ordinal - first},
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
