"""What came back from the workers: receipts, failures, other tries. Runs on: container.

Owns whose failure it was, seen from the driver. A returned value or an exception only triggers a look at the receipt.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import chain
from typing import Any

from modalbatch.canonical import Json
from modalbatch.driver.again import gain
from modalbatch.driver.feed import Feed
from modalbatch.driver.index import Index
from modalbatch.driver.ledger import Ledger
from modalbatch.driver.plan import SplitMaker, unheard_receipts
from modalbatch.driver.verdict import judge
from modalbatch.errors import FenceError, InternalError, ModalbatchError, UnavailableError
from modalbatch.job import Job
from modalbatch.records import Counts, Receipt, Split
from modalbatch.sinks.objects import ObjectSink

#: Seconds up to which a split is short.
SHORT_S = 5.0
#: Seconds before a split that found no free slot is fed again; twice as many each time, up to the most.
AGAIN_S, MOST_AGAIN_S = 1.0, 15.0
#: Starts that may fail before any record was done.
MAX_FAILED_STARTS = 2
#: The same once records were done: starts in a row, without a split done in between, in whichever container.
MAX_LATER_FAILED_STARTS = 20

#: Attempts of one split that may each end in a call that hangs: halving a large batch takes many.
MAX_SEARCHES = 20

#: Times that a run lists its receipts because answers were lost: after that it is cheaper to do a little again.
MAX_LISTINGS = 3

#: Runs something that waits for disk or network elsewhere than in the event loop.
Off = Callable[..., Awaitable[Any]]


class Settlement:
    """Numbers and failures of one run, as they come in."""

    def __init__(self, job: Job, sink: ObjectSink, ledger: Ledger, *, index_thread: Off, reader_threads: Off) -> None:
        self._job, self._sink, self._ledger = job, sink, ledger
        self._off, self._read = index_thread, reader_threads
        self.counts = Counts()
        #: Splits that are done, and that are given up.
        self.n_done = self.n_failed = 0
        #: Attempts that ended without an answer, and so many of them when the receipts were listed.
        self.n_lost = self._n_lost_before = self._n_listings = 0
        #: Splits that came into being because workers divided others.
        self.n_more = 0
        self.has_accepted = False
        self.stop_error: ModalbatchError | None = None
        #: Split id → failed attempts.
        self._failures: dict[str, int] = {}
        #: Split id → the last failure of a split whose tries are used up.
        self._given_up: dict[str, Json] = {}
        #: Split id → times in a row that it found no free slot.
        self._n_again: dict[str, int] = {}
        #: Receipts that were told of and could not be seen yet.
        self._unseen: list[str] = []
        self._n_failed_starts = 0

    def go_on(self, before: Json) -> None:
        """Count on from where an earlier driver of the run handed over (`so_far`)."""
        if before:
            self.counts, self.n_done = Counts.from_json(before["counts"]), before["done"]

    def so_far(self) -> Json:
        """What the next driver of the run counts on from."""
        return {"counts": self.counts.to_json(), "done": self.n_done}

    @property
    def n_moves(self) -> int:
        """Grows with everything that brings the run nearer to its end."""
        return self.n_done + self.n_more

    async def settle(self, feed: Feed, index: Index, answer: Any) -> None:
        """What one split came back with."""
        split_id = ""
        try:
            if isinstance(answer, BaseException):
                # The map does not say whose exception it is: the next round feeds what has no receipt.
                self.n_lost += 1
                self._ledger.add("lost", error=f"{type(answer).__name__}: {answer}"[:500])
            else:
                data = json.loads(answer)
                split_id = data.get("split", "")
                await self._settle_answer(feed, index, data)
        except ModalbatchError as error:
            self.stop(feed, error)
        except Exception as error:  # in a task nobody would hear of it
            self.stop(feed, as_ours(error))
        finally:
            feed.settled(split_id)
        if self._ledger.is_due():
            try:
                await self._off(self._ledger.flush)
            except ModalbatchError as error:  # the story is lost, the run need not be
                self._ledger.add("ledger_failed", error=error.message)

    def stop(self, feed: Feed, error: ModalbatchError) -> None:
        """End the run early; the first reason counts."""
        self.stop_error = self.stop_error or error
        feed.stop()

    def changed_inputs(self) -> set[str]:
        """URIs of splits that were given up: feeding them again would change nothing."""
        return {uri for failed in self._given_up.values() for uri in failed["uris"]}

    def why_missing(self, n_missing: int) -> ModalbatchError:
        """The error of a run in which some splits have no receipt."""
        failed = next(iter(self._given_up.values()), None)
        hint = "apply again: what is done stays done"
        if failed is None:
            return UnavailableError(f"{n_missing} splits came back without a receipt", hint=hint)
        message = f"{n_missing} inputs or ranges are not done: {failed['message']}"
        return UnavailableError(message, hint=failed["hint"] or hint)

    async def _settle_answer(self, feed: Feed, index: Index, answer: Json) -> None:
        status = answer["status"]
        if status == "done":
            if answer.get("most"):
                feed.limit(answer["most"])
            is_used = await self._accept(feed, index, answer["receipt"], is_carried=answer.get("is_carried", False))
            if is_used:
                self._feed_rest(feed, answer)
        elif status == "divided":
            self._feed_rest(feed, answer)
        elif status == "again":
            feed.narrow()
            split = Split.from_text(answer["task"])
            n_before = self._n_again.get(split.id, 0)
            self._n_again[split.id] = n_before + 1
            feed.again(split, min(MOST_AGAIN_S, AGAIN_S * 2**n_before))
            return
        elif status == "start_failed":
            self._start_failed(feed, answer)
        elif status == "refused":
            self.stop(feed, UnavailableError(answer["message"], hint="apply again"))
        elif status == "record_failed":
            self.stop(feed, _record_error(answer["letter"]))
        else:
            self._retry(feed, answer)
        self._n_again.pop(answer.get("split", ""), None)

    def _start_failed(self, feed: Feed, answer: Json) -> None:
        """Before anything was done it is the handler's fault; later a machine may be broken, until none starts."""
        self._n_failed_starts += 1
        if not self.counts.in_ and self._n_failed_starts >= MAX_FAILED_STARTS:
            self.stop(feed, _start_error(answer["error"]))
        elif self._n_failed_starts >= MAX_LATER_FAILED_STARTS:
            self.stop(feed, _late_start_error(answer["error"]))
        elif not self.counts.in_:
            feed.again(Split.from_text(answer["task"]), 0.0)
        else:
            self._retry(feed, answer)

    def _feed_rest(self, feed: Feed, answer: Json) -> None:
        """What a worker gives back of a split that it has divided."""
        rest = answer.get("rest", ())
        for text in rest:
            feed.again(Split.from_text(text), 0.0)
        if rest:
            self.n_more += len(rest) - (answer["status"] == "divided")
            self._ledger.add("split_divided", split=answer["split"], n_parts=len(rest))

    async def _accept(self, feed: Feed, index: Index, name: str, *, is_carried: bool) -> bool:
        """Whether the receipt counts."""
        receipt = await self._read(self._sink.read_receipt, name)
        if receipt is None:
            # On a Modal Volume others' writes are seen after a reload only.
            try:
                await self._off(self._sink.refresh)
            except ModalbatchError as error:  # not visible yet
                self._ledger.add("refresh_failed", error=error.message)
            receipt = await self._read(self._sink.read_receipt, name)
        if receipt is None:
            self._unseen.append(name)
        if receipt is None or not await self._off(index.accept, name, receipt):
            self._ledger.add("receipt_not_used", receipt=name, is_there=receipt is not None)
            return False
        self.has_accepted = True
        if is_carried:
            return True  # nothing was processed: it is kept
        self._n_failed_starts = 0
        self.n_done += 1
        gained = await self._off(gain, index, receipt) if receipt.replaces else receipt.counts
        self.counts = self.counts + gained
        if receipt.seconds < SHORT_S:
            feed.widen()
        self._note(receipt)
        # A retry makes nothing worse: what is dead was dead.
        fence = None if receipt.replaces else judge(self._job, self.counts, is_final=False).error
        if fence is not None:
            self.stop(feed, fence)
        return True

    def look_again(self, maker: SplitMaker) -> None:
        """Receipts that could not be seen when they were told of, or of which nobody told. Order: on the index thread,
        with nothing out."""
        names, self._unseen = self._unseen, []
        is_listed = self.n_lost > self._n_lost_before and self._n_listings < MAX_LISTINGS
        self._n_lost_before, self._n_listings = self.n_lost, self._n_listings + is_listed
        try:
            if names:
                self._sink.refresh()
            told = ((name, receipt) for name in names if (receipt := self._sink.read_receipt(name)))
            for name, receipt in chain(told, unheard_receipts(self._sink, maker) if is_listed else ()):
                if maker.index.accept(name, receipt):
                    self.has_accepted = True
                    self.n_done += 1
                    self.counts = self.counts + gain(maker.index, receipt)
                    self._note(receipt)
        except ModalbatchError as error:  # what is not seen is done again
            self._ledger.add("refresh_failed", error=error.message)

    def _note(self, receipt: Receipt) -> None:
        self._ledger.add(
            "split_done",
            split=receipt.split,
            attempt=receipt.attempt,
            counts=receipt.counts.to_json(),
            seconds=round(receipt.seconds, 3),
            container=receipt.container,
        )

    def _retry(self, feed: Feed, answer: Json) -> None:
        """A failed attempt: again, with back-off, unless its input changed or its tries are used up."""
        split = Split.from_text(answer["task"])
        n_failed = self._failures[split.id] = self._failures.get(split.id, 0) + 1
        error = answer.get("error")
        message = answer.get("message") or (error.get("message", "") if isinstance(error, dict) else error or "")
        self._ledger.add("split_failed", split=split.id, error=answer.get("error"), message=message, attempt=n_failed)
        is_changed = answer.get("error") == "InputChangedError"
        suspects = answer.get("suspects")
        most = MAX_SEARCHES if suspects else self._job.retries.max_retries
        if not is_changed and n_failed <= most:
            # The next attempt goes on with the search for the record that hangs.
            split = replace(split, suspects=suspects or split.suspects)
            feed.again(split, self._job.retries.delay_s(n_failed))
            return
        self.n_failed += 1
        uris = [unit.uri for unit in split.units]
        self._given_up[split.id] = {"message": message, "hint": answer.get("hint"), "uris": uris}


def as_ours(error: BaseException) -> ModalbatchError:
    """An exception as an error that says whether to try again: a disk that is full is nobody's bug."""
    if isinstance(error, ModalbatchError):
        return error
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, sqlite3.OperationalError):
        hint = "free some space on this machine, then run `apply` again"
        return UnavailableError(f"cannot use the driver's temporary file: {error}", hint=hint)
    if isinstance(error, OSError):
        return UnavailableError(message, hint="check the disk of this machine, then apply again")
    return InternalError(message)


def _start_error(error: Json) -> ModalbatchError:
    return ModalbatchError(f"the handler does not start: {_told(error)}", hint="mend it, then apply again")


def _late_start_error(error: Json) -> UnavailableError:
    hint = "look at what it needs to start, then apply again: what is done stays done"
    return UnavailableError(f"the handler does not start any more: {_told(error)}", hint=hint)


def _told(error: Json) -> str:
    return f"{error['type']}: {error['message']}\n{error['traceback']}".rstrip()


def _record_error(letter: Json) -> ModalbatchError:
    error, position = letter["error"], letter["position"]
    return FenceError(
        f"{letter['uri']}: record {position['ordinal']}: {error['type']}: {error['message']}",
        hint="`on_error: fail` stops at the first failed record; `on_error: dead_letter` sets it aside",
    )
