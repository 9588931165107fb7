"""The engine's clock, for rules that count in minutes and days. Runs on: laptop.

Owns time as such rules see it: when results expire, schedules fire, a crash loop is tried again, a caller counts as
gone. What counts in seconds under a running container (its time limits, long polls) stays on the event loop's clock.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_log = logging.getLogger("modalbatch.engine")
#: Variable that makes an engine serve `advance` on a socket; read when the engine starts.
_HOOK = "MODALBATCH_CLOCK"


class Timer:
    """One thing to do later."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Leaves it undone."""
        self._callback = None

    def run(self) -> None:
        """Does it, unless it was cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            try:
                callback()
            except Exception:
                _log.exception("a timer failed")


class Clock:
    """Time that goes with the machine's, and can be put ahead."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead_s = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """Unix time in seconds."""
        return self._wall() + self._ahead_s

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return self._steady() + self._ahead_s

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Has something done after a delay, in the event loop that runs now."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.monotonic() + max(0.0, delay_s), next(self._numbers), timer))
        self._arm()
        return timer

    def advance(self, seconds: float) -> None:
        """Puts the clock ahead; what falls due on the way is done in order, each at its own time."""
        end = self.monotonic() + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._ahead_s += max(0.0, due - self.monotonic())
            timer.run()
        self._ahead_s += max(0.0, end - self.monotonic())
        self._arm()

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._timers:
            delay_s = max(0.0, self._timers[0][0] - self.monotonic())
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self.advance, 0.0)


async def serve_clock(clock: Clock, run_folder: Path, environ: Mapping[str, str]) -> asyncio.AbstractServer | None:
    """Lets a test put an engine's clock ahead, if the engine was started with MODALBATCH_CLOCK=socket.

    The socket `clock` is in the engine's private folder: one line with a number of seconds is answered by one line with
    the new time, when all that fell due was done.
    """
    if environ.get(_HOOK) != "socket":
        return None

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            clock.advance(float(line))
            writer.write(f"{clock.now()}\n".encode())
        writer.close()

    path = run_folder / "clock"
    server = await asyncio.start_unix_server(turn, str(path))
    os.chmod(path, 0o600)  # noqa: PTH101
    return server
