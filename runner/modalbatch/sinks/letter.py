"""Dead letters: when two failures are the same, and which letters a retry means. Runs on: both.

Owns the signature of a failure: cause, type, place in the user's code, and a message without what differs from record
to record.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

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


class Failing(NamedTuple):
    """What dead letters have in common when they are of one kind."""

    #: 8 hex digits of a hash of the others.
    signature: str
    cause: str
    type: str
    #: Without what differs from record to record.
    message: str
    #: File and function of the user's code; empty where none was running.
    place: str


def failing(letter: Mapping[str, Any]) -> Failing:
    """The kind of a dead letter."""
    cause, error = letter["cause"], letter["error"]
    message, place = normalise(error["message"]), _place(error.get("traceback") or "")
    said = "\n".join((cause, error["type"], message, place))
    signature = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return Failing(signature, cause, error["type"], message, place)


def normalise(message: str) -> str:
    """A message with signs in the place of numbers, quotations and ids; one line."""
    for pattern, sign in _VARYING:
        message = pattern.sub(sign, message)
    message = message.strip()
    return message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…"


def has_record(letter: Mapping[str, Any]) -> bool:
    """Whether the whole record is in the letter: the rest of a broken archive is not, nor is an oversize record."""
    return "record" in letter or ("raw_base64" in letter and letter["cause"] != "oversize")


def is_meant(letter: Mapping[str, Any], retry: Mapping[str, Any]) -> bool:
    """Whether a retry processes the record of this letter.

    `retry`: {"error": only letters with this signature, "before": only those that no retry has had for a manifest of
    this number: what a retry that was killed has done is not done again}.
    """
    if not has_record(letter) or letter.get("retried", 0) >= retry["before"]:
        return False
    return retry["error"] in (None, failing(letter).signature)


def _place(traceback: str) -> str:
    """The innermost frame, without its line: that moves with every edit."""
    frames = _FRAME.findall(traceback)
    return f"{PurePath(frames[-1][0]).name} in {frames[-1][1]}" if frames else ""
