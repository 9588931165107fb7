"""Containers of one function that fail one after another. Runs on: laptop.

Owns the counts and the pauses. Starts that fail and containers that die at work are counted apart: a container that
starts well says nothing about what its next input does to it.
"""

from __future__ import annotations

from collections.abc import Callable

from modalbatch.engines.local.schedules.clock import Clock

#: Failures in a row from which on there are pauses. In an ephemeral app every waiting input fails then.
MAX_FAILED_STARTS = 2
#: Containers in a row that die at work without a result in between: of a deployed app, and of an ephemeral one.
MAX_CRASHES_DEPLOYED, MAX_CRASHES_EPHEMERAL = 2, 8
#: A pause lasts this many seconds, doubling up to the second number.
_FIRST_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0


class CrashLoop:
    """Counts failures, and says when there are too many."""

    def __init__(self, clock: Clock, resume: Callable[[], object]) -> None:
        self._clock = clock
        self._resume = resume
        self._n_failed_starts = 0
        self._n_crashes = 0
        self._pause_s = 0.0
        self._until = 0.0

    @property
    def is_pausing(self) -> bool:
        """Whether no container is started now."""
        return self._clock.monotonic() < self._until

    def fail(self, *, is_start: bool, is_deployed: bool) -> bool:
        """Counts a container that has failed; whether it was one too many."""
        if is_start:
            self._n_failed_starts += 1
            return self._n_failed_starts >= MAX_FAILED_STARTS
        self._n_crashes += 1
        return self._n_crashes >= (MAX_CRASHES_DEPLOYED if is_deployed else MAX_CRASHES_EPHEMERAL)

    def pause(self) -> float:
        """Begins a pause, after which work is resumed; its seconds."""
        self._pause_s = min(max(_FIRST_PAUSE_S, 2 * self._pause_s), _MAX_PAUSE_S)
        self._until = self._clock.monotonic() + self._pause_s
        self._clock.call_later(self._pause_s, self._resume)
        return self._pause_s

    def start(self) -> None:
        """Notes a container that has started well."""
        self._n_failed_starts = 0
        if not self._n_crashes:
            self._pause_s, self._until = 0.0, 0.0

    def succeed(self) -> None:
        """Notes a result."""
        self._n_crashes = 0

    def reset(self) -> None:
        """Begins anew, with new code."""
        self._n_failed_starts, self._n_crashes, self._pause_s, self._until = 0, 0, 0.0, 0.0
