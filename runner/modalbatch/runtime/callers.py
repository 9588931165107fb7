"""How calls are made at the same time: inline, in threads, or as tasks of one event loop. Runs on: container."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

from modalbatch.runtime.attempts import Item, Policy, Runner


class Work(NamedTuple):
    """Lines that are settled together, in the order of reading."""

    low: int
    high: int
    #: Records for one call; empty when `known` says it all.
    items: list[Item]
    #: Whether nothing else may be in flight.
    alone: bool
    #: Settles lines that need no call.
    known: Callable[[], None] | None

    @classmethod
    def of(cls, items: list[Item], cut: tuple[int, int, int] | None) -> Work:
        """One call; alone where a cut says how many at most."""
        return cls(items[0].ordinal, items[-1].ordinal + 1, items, cut is not None, None)


class Callers:
    """Up to `width` calls at a time; one object for the life of a slot, so that threads and loops are made once."""

    def __init__(self, width: int, is_async: bool) -> None:
        self.width = width
        self._threads = ThreadPoolExecutor(width, "modalbatch-call") if width > 1 and not is_async else None
        self._loop: Any = None
        if is_async:
            import asyncio
            import threading

            self._loop = asyncio.new_event_loop()
            if width > 1:
                threading.Thread(target=self._loop.run_forever, name="modalbatch-loop", daemon=True).start()

    def allowed(self, size: int, most: int) -> int:
        """Calls at a time with `size` records each, where memory allows `most` records together (0: any number)."""
        return max(1, min(self.width, most // size)) if most else self.width

    def submit(self, policy: Policy, runner: Runner, items: list[Item]) -> Future[list[Any]]:
        """Start settling these records; the future's result has a result or a `Failure` for each."""
        steps = policy.settle(items)
        if self._threads:
            return self._threads.submit(runner.run, steps)
        if self._loop is not None and self.width > 1:
            import asyncio

            return asyncio.run_coroutine_threadsafe(_or_die(runner.run_async(steps)), self._loop)
        done: Future[list[Any]] = Future()
        done.set_result(self.run(runner, steps))
        return done

    def run(self, runner: Runner, steps: Any) -> list[Any]:
        """Settle now, with nothing else in flight."""
        if self._loop is None:
            return runner.run(steps)
        if self.width > 1:
            import asyncio

            return asyncio.run_coroutine_threadsafe(_or_die(runner.run_async(steps)), self._loop).result()
        return self._loop.run_until_complete(runner.run_async(steps))  # type: ignore[no-any-return]

    def __enter__(self) -> Callers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._loop is not None and self.width > 1:
            self._loop.call_soon_threadsafe(self._loop.stop)


async def _or_die(settling: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    """What ends the process in a plain loop ends it here too; the end of the loop's thread alone would be a hang."""
    try:
        return await settling
    except KeyboardInterrupt:
        os._exit(1)
