"""Write-once creation over a request that may be refused, repeated or lost. Runs on: both.

Owns what follows each answer: an object that stands is read back, and is ours iff it holds our bytes; what left nothing
behind is tried again. Knows no protocol: a store says what an error means.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

from modalbatch.errors import ModalbatchError, NotFoundError

#: Tries of a conditional create; the client of the store repeats each of them too.
N_TRIES = 5


class Refusal(Enum):
    """What a failed conditional create means."""

    #: The name is taken: by us, if an earlier reply was lost, or by another.
    TAKEN = auto()
    #: Nothing landed, or nobody knows: a conflict, a busy store, no answer.
    AGAIN = auto()
    #: Another try would fail the same way.
    FINAL = auto()


def create_once(
    data: bytes,
    *,
    put: Callable[[], object],
    read: Callable[[], bytes],
    errors: tuple[type[Exception], ...],
    judge: Callable[[Exception], Refusal],
    translate: Callable[[Exception], ModalbatchError],
    sleep: Callable[[float], None],
) -> bool:
    """Whether the object now holds exactly `data`. Retry-safe: yes, if `data` is unique to its writer.

    Raises:
        ModalbatchError: what `translate` makes of the last failure.
    """
    failure: Exception | None = None
    for n_failed in range(1, N_TRIES + 1):
        try:
            put()
            return True
        except errors as error:
            failure = error
        refusal = judge(failure)
        if refusal is Refusal.FINAL:
            raise translate(failure) from failure
        if refusal is Refusal.TAKEN:
            with suppress(NotFoundError):
                return read() == data
        if n_failed < N_TRIES:
            sleep(random.uniform(0.5, 1.0) * 0.2 * 2**n_failed)
    try:
        return read() == data
    except ModalbatchError:
        raise translate(failure or OSError("no answer")) from failure
