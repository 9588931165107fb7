"""Modal's limits on what callers submit. Runs on: laptop.

Owns the numbers and the answers. A full queue is an error that a single call shows to its caller, while a map tries
again; somebody who is too fast is told how long to wait, and the client does. Numbers are per function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from modalbatch.engines.local.wire import Message, exhausted, invalid

if TYPE_CHECKING:
    from modalbatch.engines.local.containers.pool import Pool

#: Inputs that a map may have in flight.
MAX_OUTSTANDING = 1000
#: Inputs of waiting callers: queued, and in all.
MAX_QUEUED_SYNC, MAX_SYNC = 2_000, 25_000
#: Queued inputs of spawned calls.
MAX_QUEUED_ASYNC = 1_000_000
#: Inputs per second, of waiting callers and spawned; and for how many seconds' worth they may come at once.
RATE_SYNC, RATE_ASYNC, BURST_S = 200.0, 1_500.0, 5.0
#: Arguments in a request; larger ones travel as blobs.
MAX_INLINE_SYNC_BYTES, MAX_INLINE_ASYNC_BYTES = 2 << 20, 8 << 10


class Bucket:
    """A rate with a burst."""

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self._rate = rate
        self._now = now
        self._left = self._most = rate * BURST_S
        self._at = now()

    def take(self, n: int) -> float:
        """Takes `n` if they are there; else the seconds until they are."""
        now = self._now()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        # A request that is larger than the bucket passes when that is full: split, it would take as long.
        if self._left < min(n, self._most):
            return (min(n, self._most) - self._left) / self._rate
        self._left -= n
        return 0.0


class Gate:
    """What one function lets in."""

    def __init__(self, name: str, pool: Pool, now: Callable[[], float]) -> None:
        self._name = name
        self._pool = pool
        self._buckets = {True: Bucket(RATE_SYNC, now), False: Bucket(RATE_ASYNC, now)}

    def admit(self, items: Iterable[Message], *, is_sync: bool) -> None:
        """Lets inputs in, all or none. Raises: INVALID_ARGUMENT, RESOURCE_EXHAUSTED."""
        pool = self._pool
        most_bytes = MAX_INLINE_SYNC_BYTES if is_sync else MAX_INLINE_ASYNC_BYTES
        n = 0
        for item in items:
            n += 1
            if len(item.input.args) > most_bytes:
                raise invalid(
                    f"an input of `{self._name}` has {len(item.input.args)} bytes of arguments in its request:"
                    f" more than {most_bytes} must be uploaded as a blob"
                )
        if is_sync:
            self._check(pool.n_pending_sync + n, MAX_QUEUED_SYNC, "inputs that wait for a container")
            self._check(pool.n_pending_sync + pool.n_running + n, MAX_SYNC, "inputs that wait or run")
        else:
            self._check(pool.n_pending - pool.n_pending_sync + n, MAX_QUEUED_ASYNC, "spawned inputs that wait")
        if n and (wait_s := self._buckets[is_sync].take(n)):
            rate = RATE_SYNC if is_sync else RATE_ASYNC
            raise exhausted(f"function `{self._name}` takes {rate:g} inputs per second", wait_s)

    def _check(self, n: int, most: int, what: str) -> None:
        if n > most:
            raise exhausted(f"function `{self._name}` has too many {what}: more than {most}")
