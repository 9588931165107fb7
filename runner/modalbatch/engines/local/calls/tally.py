"""How often things happened to a function, by the minute. Runs on: laptop.

Owns counts in memory, for as long as Modal answers about them (7 days); they do not outlive the engine.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable

_MINUTE_S = 60
_KEPT_MINUTES = 7 * 24 * 60


class Tally:
    """Counts of one function."""

    def __init__(self) -> None:
        self._minutes: dict[int, Counter[Hashable]] = {}

    def count(self, what: Hashable) -> None:
        """Notes that something happened now."""
        minute = int(time.time()) // _MINUTE_S
        self._minutes.setdefault(minute, Counter())[what] += 1
        if len(self._minutes) > _KEPT_MINUTES:
            self._minutes.pop(next(iter(self._minutes)))

    def total(self, what: Hashable, since_s: float, until_s: float) -> int:
        """How often something happened between two unix times, whole minutes counted."""
        first, last = since_s // _MINUTE_S, until_s // _MINUTE_S
        return sum(counts[what] for minute, counts in self._minutes.items() if first <= minute <= last)
