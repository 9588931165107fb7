"""What is fed, round by round. Runs on: container.

Owns the order: first what the source holds and is not done, then, with nothing out, what came back without a receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from modalbatch.canonical import Json
from modalbatch.driver.again import retry_splits
from modalbatch.driver.gone import settle_removed
from modalbatch.driver.plan import SplitMaker, check_not_empty, enumerate_missing
from modalbatch.driver.settle import Settlement
from modalbatch.job import Job
from modalbatch.records import Split
from modalbatch.sources import Source

#: Rounds of feeding what came back without a receipt, in which nothing moved on.
MAX_ROUNDS = 3


class Rounds:
    """Of one plan; all on the index thread."""

    def __init__(
        self,
        job: Job,
        source: Source,
        maker: SplitMaker,
        settlement: Settlement,
        *,
        retry: Json | None,
        before_first: Callable[[], None],
    ) -> None:
        """`retry`: of the request, where dead letters are processed and not the source. `before_first`: is called
        before the first split is fed."""
        self._job, self._source, self._maker, self._settlement = job, source, maker, settlement
        self._retry, self._before_first = retry, before_first
        self._index = maker.index
        self._n = self._n_idle = self._n_moves = 0
        #: Splits fed, wanted units that were done before, and whether both are known to the end.
        self.n_fed = self.n_kept = 0
        self.is_listed = False

    def next(self) -> Iterator[Split] | None:
        """The splits of the next round; None: there is none. Order: with nothing out."""
        index = self._index
        self._settlement.look_again(self._maker)
        self._n += 1
        if self._retry is not None:
            return self._again(self._retry["error"])
        if self._n == 1:
            return self._first()
        if self._n == 2:
            check_not_empty(self._job, index)
            settle_removed(index, self._job.source.on_removed)
        if self._n > 2 and self._settlement.n_moves == self._n_moves:
            self._n_idle += 1
        self._n_moves = self._settlement.n_moves
        if self._n_idle > MAX_ROUNDS or not index.n_missing():
            return None
        given_up = self._settlement.changed_inputs()
        units = [unit for unit in index.missing() if unit.uri not in given_up]
        carries = (carry for carry in index.carries() if given_up.isdisjoint(unit.uri for unit in carry.units))
        splits = self._maker.splits(iter(units))
        if self._settlement.n_lost:
            splits = (split.suspected() for split in splits)
        return self._counted(chain(splits, self._maker.carried(carries)))

    def _first(self) -> Iterator[Split]:
        yield from self._counted(self._maker.splits(enumerate_missing(self._source, self._index)))
        self.is_listed = True
        self.n_kept = self._index.n_wanted() - self._index.n_undone

    def _again(self, error: str | None) -> Iterator[Split] | None:
        if self._n > 1 + MAX_ROUNDS or not self._index.n_missing():
            return None
        self.is_listed = True
        given_up = self._settlement.changed_inputs()
        splits = retry_splits(self._maker, error)
        return self._counted(split for split in splits if given_up.isdisjoint(unit.uri for unit in split.units))

    def _counted(self, splits: Iterator[Split]) -> Iterator[Split]:
        for split in splits:
            if not self.n_fed:
                self._before_first()
            self.n_fed += 1
            yield split
