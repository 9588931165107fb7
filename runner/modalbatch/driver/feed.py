"""The feed: splits on their way to the workers, behind a bounded window. Runs on: container.

`.map()` reads its generator to the end as fast as it can and yields exceptions without their input, so: never more than
`window` splits are out, an exception only lowers the count, and what is missing at the end of a round is fed again. The
feed never raises: it ends, and keeps its error for the driver.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import replace

from modalbatch.records import Split


class Feed:
    """An asynchronous source of splits that hears what became of them."""

    def __init__(
        self, narrow: int, wide: int, thread: Executor, next_round: Callable[[], Iterator[Split] | None]
    ) -> None:
        #: Most splits out: `narrow` is one for each slot; `wide` has the next one waiting there.
        self._narrow, self._wide = narrow, max(narrow, wide)
        self.window = narrow
        #: The one thread that touches source, sink listing and index.
        self._thread = thread
        #: Called when everything that was fed is settled: the next splits to feed, or None to end.
        self._next_round = next_round
        self._splits: Iterator[Split] = iter(())
        self._again: list[tuple[float, int, Split]] = []
        self._order = itertools.count()
        self._moved = asyncio.Event()
        self._is_open = True
        self.n_out = 0
        self.n_fed = 0
        #: Split id → when it was fed, of those that are out.
        self._out: dict[str, float] = {}
        #: Whether there is nothing to feed but what may still come back.
        self.is_drained = False
        #: Records that memory allows in the handler together, as some split has found out; 0: not known.
        self.most = 0
        self.error: BaseException | None = None

    def stop(self) -> None:
        """Feed nothing more; what is out may finish."""
        self._is_open = False
        self._moved.set()

    def settled(self, split_id: str) -> None:
        """One split came back, however; empty where nobody knows which."""
        self._out.pop(split_id, None)
        self.n_out -= 1
        self._moved.set()

    def out(self) -> list[str]:
        """Splits that are out, the oldest first, as far as they are known."""
        return list(self._out)

    def stragglers(self, older_than_s: float) -> list[str]:
        """Splits that others could help with, the oldest first: as many as there are slots that have nothing to do."""
        if not self.is_drained or not self._is_open:
            return []
        until = asyncio.get_running_loop().time() - older_than_s
        old = [split_id for split_id, fed_at in self._out.items() if fed_at <= until]
        return old[: max(0, self._narrow - self.n_out)]

    def widen(self) -> None:
        """Splits are short: keep the next ones at hand, so that no slot waits for the driver."""
        self.window = min(self._wide, self.window + 1)

    def narrow(self) -> None:
        """A split waited in vain for a slot: splits are long, and should wait where any container can take them."""
        self.window = self._narrow

    def limit(self, most: int) -> None:
        """Splits from here on begin with at most so many records in the handler together."""
        self.most = min(most, self.most or most)

    def again(self, split: Split, delay_s: float) -> None:
        """Feed this split once more, later. Order: before `settled` of the same split."""
        now_s = asyncio.get_running_loop().time()
        heapq.heappush(self._again, (now_s + delay_s, next(self._order), split))
        self._moved.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            while True:
                split = await self._next()
                if split is None:
                    return
                self.n_out += 1
                self.n_fed += 1
                self._out.pop(split.id, None)  # to the end of the order
                self._out[split.id] = asyncio.get_running_loop().time()
                yield (replace(split, most=self.most) if self.most else split).to_text()
        except Exception as error:  # a feed that raises would take the map down with everything that is running
            self.error = error

    async def _next(self) -> Split | None:
        loop = asyncio.get_running_loop()
        while self._is_open:
            if self.n_out >= self.window:
                self._moved.clear()
                await self._moved.wait()
                continue
            self.is_drained = False
            if self._again and self._again[0][0] <= loop.time():
                return heapq.heappop(self._again)[2]
            split = await loop.run_in_executor(self._thread, next, self._splits, None)
            if split is not None:
                return split
            if not self.n_out and not self._again:
                splits = await loop.run_in_executor(self._thread, self._next_round)
                if splits is None:
                    return None
                self._splits = splits
                self._out.clear()
                continue
            self.is_drained = not self._again
            self._moved.clear()
            wait_s = max(0.0, self._again[0][0] - loop.time()) if self._again else None
            try:
                await asyncio.wait_for(self._moved.wait(), wait_s)
            except asyncio.TimeoutError:
                continue  # a retry is due
        return None
