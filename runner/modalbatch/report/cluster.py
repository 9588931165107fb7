"""Dead letters by what went wrong. Runs on: laptop.

Owns when two failures count as the same: cause, type, place in the user's code, and a message without what differs from
record to record. Memory: one sample for each kind; kinds beyond `MOST_KINDS` are counted together.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

from modalbatch.records import Json

MOST_KINDS = 1000
_MOST_INPUTS = 1000
_MAX_MESSAGE = 200
_FRAME = re.compile(r'File "([^"]+)", line \d+, in (\S+)')
#: What differs from record to record, and what stands for it.
_VARYING = (
    (re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""), "'…'"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE), "#"),
    (re.compile(r"\b0x[0-9a-f]+\b|\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE), "#"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "N"),
    (re.compile(r"\s+"), " "),
)


@dataclass(slots=True, kw_only=True)
class Kind:
    """Dead letters that are the same failure."""

    signature: str
    cause: str
    type: str
    #: Without what differs from record to record.
    message: str
    #: File and function of the user's code; empty where none was running.
    place: str
    #: The first of them.
    sample: Json
    n: int = 0
    #: Inputs that they come from, up to a limit.
    uris: set[str] = field(default_factory=set)

    def to_json(self) -> Json:
        """What `errors --json` says of it."""
        facts = {name: getattr(self, name) for name in ("signature", "n", "cause", "type", "message", "place")}
        return facts | {"inputs": len(self.uris), "sample": self.sample}


def clusters(letters: Iterable[Json]) -> tuple[list[Kind], int]:
    """The kinds of failures, the most frequent first, and how many letters are of kinds beyond the limit."""
    kinds: dict[str, Kind] = {}
    n_others = 0
    for letter in letters:
        made = kind_of(letter)
        kind = kinds.get(made.signature)
        if kind is None:
            if len(kinds) == MOST_KINDS:
                n_others += 1
                continue
            kind = kinds[made.signature] = made
        kind.n += 1
        if len(kind.uris) < _MOST_INPUTS:
            kind.uris.add(letter["uri"])
    return sorted(kinds.values(), key=lambda kind: (-kind.n, kind.signature)), n_others


def kind_of(letter: Json) -> Kind:
    """The kind of one dead letter, not counted yet."""
    error = letter["error"]
    message, place = normalise(error["message"]), _place(error.get("traceback") or "")
    said = "\n".join((letter["cause"], error["type"], message, place))
    return Kind(
        signature=hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:8],
        cause=letter["cause"],
        type=error["type"],
        message=message,
        place=place,
        sample=letter,
    )


def normalise(message: str) -> str:
    """A message with signs in the place of numbers, quotations and ids; one line."""
    for pattern, sign in _VARYING:
        message = pattern.sub(sign, message)
    message = message.strip()
    return message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…"


def _place(traceback: str) -> str:
    """The innermost frame, without its line: that moves with every edit."""
    frames = _FRAME.findall(traceback)
    return f"{PurePath(frames[-1][0]).name} in {frames[-1][1]}" if frames else ""
