"""Trying records until each has a result or a failure: one generator for sync, threaded and async slots.

Runs on: container. Owns the policy of `guarantees.md` section 5 for what a handler raises. It never calls and never
sleeps itself: it yields what to do, so that the same policy runs in a loop, a thread and a task.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from modalbatch.job import Job, Retries
from modalbatch.runtime import fork
from modalbatch.runtime.handler import (
    Failure,
    Handler,
    Record,
    Reject,
    describe,
    is_out_of_memory,
    is_transient,
    retry_after_s,
)

Decode = Callable[[bytes], Record]

#: What a handler may raise about a record.
RAISED = (Exception, SystemExit)


class Item(NamedTuple):
    """One record on its way, with its place."""

    #: Line of the split, from 0, blank ones counted.
    ordinal: int
    #: Bytes from the beginning of its (decompressed) object; -1 for the rest of one that cannot be read.
    offset: int
    #: As read; decoded anew for another try, since a handler may change what it is given.
    line: bytes
    record: Record


class Call(NamedTuple):
    """Call the handler with these records; the answer is the list of results, or what it raised."""

    items: list[Item]
    again: bool


class Sleep(NamedTuple):
    """Wait; the answer is None."""

    seconds: float


Steps = Generator["Call | Sleep", Any, list[Any]]


class UsedSlot(Exception):
    """A suspect comes next, and this slot has called the handler before: whatever kills it now may be of another's
    doing, such as an alarm, or a thread that outlives its call."""

    def __init__(self, ordinal: int) -> None:
        super().__init__("a suspect needs a new slot")
        self.ordinal = ordinal


class Policy:
    """How often and when a failed call is repeated."""

    def __init__(self, job: Job, most: int = 0) -> None:
        self.retries: Retries = job.retries
        self.retry_on = frozenset(job.retry_on)
        #: Records that memory allows in one call; 0: as many as the spec says. It only shrinks.
        self.most = most

    def settle(self, items: list[Item], failed: BaseException | None = None, *, again: bool = False) -> Steps:
        """A result or a `Failure` for each record.

        `failed`: what the first call, already made, has raised. `again`: the handler has had these records before.
        """
        n_failed, last = 0, None
        again = again or failed is not None
        if failed is None and self.most and len(items) > self.most:
            return (yield from self._settle_parts(items, self.most, again))
        while True:
            error = failed
            if error is None:
                try:
                    results = yield Call(items, again)
                except BaseException as raised:
                    if not is_of_record(raised):
                        raise
                    error = raised
                else:
                    if len(items) > 1 or not isinstance(results[0], Exception):
                        return (yield from self._settle_single(items, results))
                    error = results[0]
            failed, again = None, True
            n_failed += 1
            delay_s, is_oom = self.delay_s(error, n_failed, last), is_out_of_memory(error)
            if len(items) > 1 and (is_oom or not is_transient(error, self.retry_on)):
                delay_s = None  # the halves are the next try
            if delay_s is None and len(items) == 1:
                return [failure(error, n_failed)]
            last = signature(error)
            if is_oom:  # the frames of the failed call hold what filled the memory
                traceback.clear_frames(error.__traceback__)
            error = None
            if delay_s is None:
                return (yield from self._settle_halves(items, is_oom=is_oom))
            if delay_s:
                yield Sleep(delay_s)

    def _settle_halves(self, items: list[Item], *, is_oom: bool) -> Steps:
        """A batch that failed. Where memory did not suffice, and no record was too large by itself, batches shrink."""
        middle = (len(items) + 1) // 2
        results: list[Any] = yield from self._settle_parts(items, middle, True)
        if is_oom and not any(isinstance(result, Failure) and result.cause == "oom" for result in results):
            self.most = min(self.most or middle, middle)
        return results

    def _settle_parts(self, items: list[Item], size: int, again: bool) -> Steps:
        results: list[Any] = []
        for start in range(0, len(items), size):
            results += yield from self.settle(items[start : start + size], again=again)
        return results

    def _settle_single(self, items: list[Item], results: list[Any]) -> Steps:
        """Batches may answer with an exception for single records: those are tried on their own."""
        for index, result in enumerate(results):
            if isinstance(result, Exception):
                results[index] = (yield from self.settle([items[index]], result))[0]
        return results

    def delay_s(self, error: BaseException, n_failed: int, last: str | None) -> float | None:
        """Seconds before the next try; None: no more tries."""
        if isinstance(error, Reject) or n_failed > self.retries.max_retries:
            return None
        if is_transient(error, self.retry_on):
            asked = retry_after_s(error)
            return self.retries.delay_s(n_failed) if asked is None else asked
        if signature(error) == last:
            return None  # the same error on the same record twice: it will not change
        # The first repetition only asks whether the error is deterministic, so it does not wait.
        return 0.0 if n_failed == 1 else self.retries.delay_s(n_failed - 1)


def failure(error: BaseException, attempts: int) -> Failure:
    """An exception that nobody will try again, as data."""
    cause = "rejected" if isinstance(error, Reject) else "oom" if is_out_of_memory(error) else "raised"
    return Failure(cause, describe(error), attempts)


def signature(error: BaseException) -> str:
    """What makes two errors the same one."""
    described = describe(error)
    return f"{described['type']}: {described['message']}"


def is_of_record(error: BaseException) -> bool:
    """Whether a handler raised it about a record. Nobody outside cancels a call: a `CancelledError` is its own too."""
    asyncio = sys.modules.get("asyncio")  # imported by those who can raise it; 30 ms of every slot's start otherwise
    return isinstance(error, RAISED) or (asyncio is not None and isinstance(error, asyncio.CancelledError))


class Runner:
    """Carries out steps in a thread or in a task."""

    def __init__(self, handler: Handler, decode: Decode, tick: Callable[[int], None]) -> None:
        self.handler, self.decode = handler, decode
        #: Hears of each new try (0), and of each wait's beginning (+1) and end (-1).
        self.tick = tick

    def records(self, call: Call) -> list[Record]:
        """What the handler is given: never an object that an earlier try may have changed."""
        if not call.again:
            return [item.record for item in call.items]
        self.tick(0)
        return [self.decode(item.line) for item in call.items]

    def run(self, steps: Steps) -> list[Any]:
        """In this thread."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    self.tick(+1)
                    time.sleep(step.seconds)
                    self.tick(-1)
                    step = steps.send(None)
                    continue
                try:
                    # Here, too: what could just be read once may be too deep to be read again.
                    records = self.records(step)
                    results = self.handler.call(records)
                except RAISED as error:
                    fork.leave()
                    step = steps.throw(error)
                else:
                    fork.leave()
                    step = steps.send(results)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def run_async(self, steps: Steps) -> list[Any]:
        """In this task."""
        import asyncio

        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    self.tick(+1)
                    await asyncio.sleep(step.seconds)
                    self.tick(-1)
                    step = steps.send(None)
                    continue
                try:
                    # Here, too: what could just be read once may be too deep to be read again.
                    records = self.records(step)
                    results = await self.handler.call_async(records)
                except (*RAISED, asyncio.CancelledError) as error:
                    fork.leave()
                    step = steps.throw(error)
                else:
                    fork.leave()
                    step = steps.send(results)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
