"""Speed and time left, from what a run told of itself. Runs on: laptop. Pure: the clock is the run's own."""

from __future__ import annotations

from collections import deque

from modalbatch.canonical import Json

#: Seconds over which speed is averaged.
SPAN_S = 30.0


class Meter:
    """A sliding window over progress reports."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()

    def add(self, progress: Json) -> None:
        """Note a report."""
        self._samples.append((progress["at"], progress["counts"]["in"], progress["splits"]["done"]))
        while len(self._samples) > 2 and self._samples[-1][0] - self._samples[0][0] > SPAN_S:
            self._samples.popleft()

    def rate(self) -> float | None:
        """Records a second; None as long as it cannot be known."""
        return self._per_second(1)

    def left_s(self, progress: Json) -> float | None:
        """Seconds until the last split, at this speed; None as long as it cannot be known."""
        rate, splits = self._per_second(2), progress["splits"]
        if not rate or not splits["is_total"]:
            return None
        return float(max(0, splits["todo"] - splits["done"]) / rate)

    def _per_second(self, index: int) -> float | None:
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        return (last[index] - first[index]) / (last[0] - first[0]) if last[0] > first[0] else None
