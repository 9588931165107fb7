"""What attempts and drivers of one run leave for each other in the sink. Runs on: both.

Owns the names of these control objects. Hints, never the truth: a lost one costs time, and no record.
"""

from __future__ import annotations

from modalbatch.names import RUNS
from modalbatch.sinks.objects import ObjectSink


class Entries:
    """Attempts of one split that began and have not ended in order: whose containers are gone, or who still run."""

    def __init__(self, sink: ObjectSink, run_id: str, split_id: str, generation: int) -> None:
        self._sink = sink
        self._prefix = f"{RUNS}{run_id}/entries/{split_id}.g{generation}."

    def enter(self, attempt: str) -> int:
        """Note the attempt; how many others there are."""
        self._sink.store.create(self._prefix + attempt[:8], attempt.encode())
        self._sink.store.commit()
        return sum(1 for _ in self._sink.store.list(self._prefix)) - 1

    def leave(self, attempt: str) -> None:
        """Take the note back."""
        self._sink.store.delete([self._prefix + attempt[:8]])


def ask_to_divide(sink: ObjectSink, run_id: str, split_id: str) -> None:
    """Ask whoever works on the split to stop at its next checkpoint and to share what is left."""
    sink.put_note(_division(run_id, split_id))


def is_to_divide(sink: ObjectSink, run_id: str, split_id: str) -> bool:
    """Whether somebody asked."""
    return sink.has_note(_division(run_id, split_id))


def _division(run_id: str, split_id: str) -> str:
    return f"{RUNS}{run_id}/divide-{split_id}"
