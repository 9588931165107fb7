"""Quantities as people write them: `128MiB`, `10m`, `1%`. Runs on: both. Owns units; refuses guesses."""

from __future__ import annotations

import re

_BYTES = {
    "": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4,
    "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4,
}  # fmt: skip
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*$")
MIB = 1024**2


def parse_bytes(text: str) -> int:
    """Bytes of `512`, `8MiB`, `1.5GB`.

    Raises:
        ValueError: not a number with a known unit.
    """
    match = _QUANTITY.match(text)
    if not match or match[2].lower() not in _BYTES:
        raise ValueError(f"`{text}` is not a size; write for example `8MiB`, `500MB` or a number of bytes")
    return round(float(match[1]) * _BYTES[match[2].lower()])


def parse_seconds(text: str) -> float:
    """Seconds of `90s`, `10m`, `1.5h`, `500ms`.

    Raises:
        ValueError: not a number with a known unit.
    """
    match = _QUANTITY.match(text)
    if not match or match[2].lower() not in _SECONDS:
        raise ValueError(f"`{text}` is not a duration; write for example `90s`, `10m` or `2h`")
    return float(match[1]) * _SECONDS[match[2].lower()]


def format_bytes(n_bytes: float) -> str:
    """`1.5 MiB`: three significant digits, binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024 or unit == "GiB":
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3m 05s`, `2h 10m`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"
