"""Callers that wait, and callers that have left. Runs on: laptop.

Owns Modal's rule that a call is cancelled within two minutes when nobody waits for it any more. A caller shows that it
is there by asking for outputs; whether it was killed, hangs or has lost its way makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modalbatch.engines.local.calls.call import Call
from modalbatch.engines.local.schedules.clock import Clock

#: A client may be silent for a minute between attempts of an input. With the time between looks it is two minutes.
_MAX_SILENCE_S, _LOOK_S = 90.0, 30.0


class CallerWatch:
    """Gives up calls that nobody waits for."""

    def __init__(self, clock: Clock, calls: Callable[[], dict[str, Call]]) -> None:
        self._clock = clock
        self._calls = calls

    def begin(self) -> None:
        """Looks now, and again and again."""
        oldest = self._clock.monotonic() - _MAX_SILENCE_S
        for call in list(self._calls().values()):
            if call.is_sync and not call.n_open and call.heard_at <= oldest:
                call.is_cancelled = True
                call.function.pool.cancel(call, kill=False)
                self._calls().pop(call.id, None)
        self._clock.call_later(_LOOK_S, self.begin)

    @contextmanager
    def hears(self, call: Call) -> Iterator[None]:
        """While the caller of a call is known to be there."""
        call.n_open += 1
        try:
            yield
        finally:
            call.n_open -= 1
            call.heard_at = self._clock.monotonic()
