"""What a driver looks at while its splits are out. Runs on: container.

Owns when it stops feeding: somebody asked, another driver took over, or its own time is over and it hands over to the
next one; and whom it asks to share their split (`sinks.notes`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from modalbatch.driver import runs
from modalbatch.driver.feed import Feed
from modalbatch.driver.ledger import Ledger
from modalbatch.driver.settle import Settlement
from modalbatch.errors import BusyError
from modalbatch.sinks.notes import ask_to_divide
from modalbatch.sinks.objects import ObjectSink

#: Seconds between looks at stop and epoch, and between reports of progress.
LOOK_S, REPORT_S = 1.0, 0.5
#: Seconds after which a split that others could help with is a straggler.
STRAGGLER_S = 5.0
#: A driver that hands over waits so long for what is out: a share of its life, but at least some seconds.
HAND_OVER_SHARE, HAND_OVER_S = 0.05, 60.0


class Lookout:
    """Of one driver; one task for each plan."""

    def __init__(
        self,
        sink: ObjectSink,
        run_id: str,
        ledger: Ledger,
        settlement: Settlement,
        *,
        off: Callable[..., Awaitable[Any]],
        life_s: float,
    ) -> None:
        """`off`: runs something that waits elsewhere. `life_s`: seconds from now until the next driver; 0: never."""
        self._sink, self._run_id, self._ledger, self._settlement, self._off = sink, run_id, ledger, settlement, off
        self.is_asked_to_stop = self.is_handing_over = False
        #: Splits whose attempts may outlive this driver.
        self.n_abandoned = 0
        self._asked: set[str] = set()
        #: When this driver hands over, and when it waits for attempts no longer.
        self._ends_at = self._leaves_at = float("inf")
        if life_s:
            self._ends_at = asyncio.get_running_loop().time() + life_s
            self._leaves_at = self._ends_at + max(HAND_OVER_S, HAND_OVER_SHARE * life_s)

    @property
    def phase(self) -> str:
        """What the driver does, where it is not what it did; else empty."""
        return "stopping" if self.is_asked_to_stop else "handing over" if self.is_handing_over else ""

    async def look(
        self, feed: Feed, epoch: int, consuming: asyncio.Future[None], tell: Callable[[], Awaitable[None]]
    ) -> None:
        """Until cancelled: look every second, tell the progress twice a second."""
        loop, next_look = asyncio.get_running_loop(), 0.0
        while True:
            await tell()
            if loop.time() >= next_look:
                next_look = loop.time() + LOOK_S
                try:
                    await self._look_once(feed, epoch)
                except Exception as error:  # the next look may see more
                    self._ledger.add("look_failed", error=f"{type(error).__name__}: {error}"[:500])
                if loop.time() >= self._leaves_at and not consuming.done():
                    self.n_abandoned = feed.n_out
                    consuming.cancel()
            await asyncio.sleep(REPORT_S)

    async def _look_once(self, feed: Feed, epoch: int) -> None:
        try:
            await self._off(self._sink.refresh)
        finally:  # what is visible counts
            if await self._off(runs.is_stopping, self._sink, self._run_id):
                self.is_asked_to_stop = True
                feed.stop()
            if await self._off(runs.newest_epoch, self._sink, self._run_id) > epoch:
                self._settlement.stop(feed, BusyError("another driver of this run took over"))
        to_share = feed.stragglers(STRAGGLER_S)
        if asyncio.get_running_loop().time() >= self._ends_at:
            # What is out comes back soon, with what is done of it; the next driver plans the rest.
            self.is_handing_over, to_share = True, feed.out()
            feed.stop()
        for split_id in to_share:
            if split_id not in self._asked:
                self._asked.add(split_id)
                await self._off(ask_to_divide, self._sink, self._run_id, split_id)
                self._ledger.add("asked_to_divide", split=split_id)
