"""Plain scalars of YAML 1.2. Runs on: laptop.

Owns which words are numbers, booleans and null: `no` is text, `010` is ten, a date is text. Refuses numbers that JSON
cannot hold.
"""

from __future__ import annotations

import re

_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULL = {"", "~", "null", "Null", "NULL"}
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MAX_DIGITS = 40

Scalar = str | int | float | bool | None


def read_plain(text: str) -> Scalar:
    """The value of an unquoted scalar.

    Raises:
        ValueError: a number that is not finite or has too many digits; the message says which.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text[0] not in "-+.0123456789":
        return text
    if len(text) > _MAX_DIGITS:
        if _INT.fullmatch(text) or _FLOAT.fullmatch(text):
            raise ValueError(f"a number of {len(text)} characters is too long")
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"`{text}` is too large for a number")
        return value
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"`{text}` is not a finite number")
    return text
