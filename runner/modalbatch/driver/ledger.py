"""The ledger: the story of one run, in the sink. Runs on: container. Never the truth: nothing is decided from it."""

from __future__ import annotations

import time
from collections.abc import Callable

from modalbatch.canonical import SINK_FORMAT, encode
from modalbatch.names import RUNS
from modalbatch.stores import Store

#: Events in one object, and seconds that one may wait.
MOST_EVENTS = 1000
MOST_SECONDS = 10.0


class Ledger:
    """Appends events; writes them as numbered objects, since object stores cannot append."""

    def __init__(
        self, store: Store, run_id: str, driver_id: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._monotonic = store, monotonic
        self._stem = f"{RUNS}{run_id}/ledger-{driver_id}"
        self._lines: list[str] = []
        self._n_objects = 0
        self._written_at = self._monotonic()

    def add(self, event: str, **data: object) -> None:
        """Note an event; wall-clock time is for people only."""
        self._lines.append(encode({"format": SINK_FORMAT, "event": event, "at": round(time.time(), 3), **data}))

    def is_due(self) -> bool:
        """Whether enough has gathered to be written."""
        waited = self._monotonic() - self._written_at >= MOST_SECONDS
        return len(self._lines) >= MOST_EVENTS or bool(self._lines and waited)

    def flush(self) -> None:
        """Write what has gathered."""
        lines, self._lines = self._lines, []  # first: other threads add meanwhile
        if lines:
            data = "\n".join(lines) + "\n"
            self._store.replace(self._name(), data.encode())
            self._n_objects += 1
        self._written_at = self._monotonic()

    def store_clock_s(self) -> float:
        """When the last object was written, by the store's own clock: it is what the age of objects is measured with.

        Minus infinity where that cannot be known.
        """
        entry = self._store.stat(self._name(-1)) if self._n_objects else None
        return entry.modified_s if entry else float("-inf")

    def _name(self, later: int = 0) -> str:
        return f"{self._stem}-{self._n_objects + later:06d}.jsonl"
