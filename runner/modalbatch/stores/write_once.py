"""Write-once creation over a request that may be refused, repeated or lost. Runs on: both.

Owns what follows each answer: an object that stands is read back, and is ours iff it holds our bytes; what left nothing
behind is tried again. Knows no protocol: a store says what an error means.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING

from modalbatch.errors import ModalbatchError, NotFoundError, StateError

if TYPE_CHECKING:
    from modalbatch.stores import Store

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


def judge_status(status: int) -> Refusal:
    """What an HTTP status says by itself; 0: there was no answer."""
    if status == 412:
        return Refusal.TAKEN
    is_final = 300 <= status < 500 and status not in (408, 409, 425, 429)
    return Refusal.FINAL if is_final else Refusal.AGAIN


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


def create_unchecked(store: Store, name: str, data: bytes) -> bool:
    """What is left of write-once on a store that cannot refuse: nothing is overwritten that is seen."""
    with suppress(NotFoundError):
        return store.read(name) == data
    store.replace(name, data)
    return True


def prove_write_once(store: Store, condition: str) -> None:
    """Create one name twice where receipts stand: proves access, and that the first stays.

    Raises:
        StateError: the store ignores its `condition`.
        UnavailableError: no access.
    """
    name = probe_name()
    try:
        first, second = store.create(name, b"first"), store.create(name, b"second")
    except ModalbatchError:
        with suppress(ModalbatchError):  # why it cannot be written says more
            store.delete([name])
        raise
    store.delete([name])
    if (first, second) != (True, False):
        raise overwrites(store.uri, condition)


def probe_name() -> str:
    """A new name for a scratch object, beside the receipts: access may differ from folder to folder."""
    return f"_modalbatch/receipts/probe-{uuid.uuid4().hex}"


def overwrites(uri: str, condition: str) -> StateError:
    """The refusal of a store on which two attempts could both commit."""
    return StateError(
        f"`{uri}` overwrites objects that must be written once: it ignores `{condition}`",
        hint="set `delivery: at_least_once`, or use a store with conditional writes",
    )
