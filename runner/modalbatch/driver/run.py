"""One run, from the driver's first line to `_SUCCESS`. Runs on: container.

Owns the order: epoch, plan, feed, manifest, sweep, `_SUCCESS`. A returned value or an
exception of a worker only triggers a look at the receipt.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from modalbatch.driver import runs
from modalbatch.driver.again import plan_retry, retry_splits
from modalbatch.driver.feed import Feed
from modalbatch.driver.index import Index
from modalbatch.driver.ledger import Ledger
from modalbatch.driver.machine import Machine
from modalbatch.driver.plan import (
    Packing,
    Sight,
    SplitMaker,
    check_not_empty,
    check_owner,
    enumerate_missing,
    owner_of,
    read_sink,
)
from modalbatch.driver.publish import Moved, mark_success, publish
from modalbatch.driver.reason import leaves
from modalbatch.driver.rule import cut_job, is_to_be_measured, measure, rule_bytes, sample_of
from modalbatch.driver.settle import Settlement, as_ours
from modalbatch.driver.sweep import sweep
from modalbatch.driver.verdict import Verdict, judge
from modalbatch.errors import BusyError, FenceError, ModalbatchError, StateError, UnavailableError
from modalbatch.job import Job, fingerprint, hash_code
from modalbatch.records import Json, Manifest, Split, encode
from modalbatch.sinks import live_parts, open_sink
from modalbatch.sinks.notes import ask_to_divide
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import Source, open_source

#: `Worker().process.map.aio`, or what a harness puts in its place.
Map = Callable[..., AsyncIterator[Any]]
Report = Callable[[Json], Awaitable[None]]
#: `drive.spawn.aio`: from a request to the call that works on it.
Spawn = Callable[[str], Awaitable[Any]]

#: Splits out for each slot while they are short: enough that none waits for the driver.
WINDOW_PER_SLOT = 3
#: Seconds between looks at stop and epoch, and between reports of progress.
LOOK_S = 1.0
REPORT_S = 0.5
#: Times that everything may be planned again because the sink moved.
MAX_PLANS = 5
#: Rounds of feeding what came back without a receipt, in which nothing moved on.
MAX_ROUNDS = 3
#: A driver that hands over waits so long for what is out: a share of its life, but at least some seconds.
HAND_OVER_SHARE, HAND_OVER_S = 0.05, 60.0
#: Seconds after which a split that others could help with is a straggler.
STRAGGLER_S = 5.0


async def drive(
    job: Mapping[str, Any],
    request: str,
    map_splits: Map,
    report: Report | None = None,
    *,
    successor: Spawn | None = None,
) -> str:
    """Run the job; JSON text of the outcome: `status`, `exit_code`, counts, and what went wrong.

    `successor`: starts this function once more; a driver whose time is over hands the run over to it, and the outcome
    has its `call_id`. Never raises for what a person can mend: that is in the outcome. Retry-safe: yes; another driver
    may take over.
    """
    asked, report = runs.Request.from_text(request), report or _modal_report(job)
    return encode(await Run(Job.from_json(dict(job)), asked, map_splits, report, successor=successor).conduct())


def _modal_report(job: Mapping[str, Any]) -> Report:
    async def report(progress: Json) -> None:
        import modal

        entries = modal.Dict.from_name(f"modalbatch-{job['name']}", create_if_missing=True)
        # Whoever follows the run later finds the driver that is alive now.
        text = encode({**progress, "call_id": modal.current_function_call_id()})
        await entries.put.aio(progress["run_id"], text)

    return report


class Run:
    """State of one driver."""

    def __init__(
        self,
        job: Job,
        request: runs.Request,
        map_splits: Map,
        report: Report,
        *,
        successor: Spawn | None = None,
        sink: ObjectSink | None = None,
        source: Source | None = None,
        machine: Machine | None = None,
    ) -> None:
        """`sink`, `source`: in place of the job's own."""
        self._machine = machine or Machine()
        self.job, self.request, self._map, self._report = job, request, map_splits, report
        self._successor = successor
        self.driver_id = self._machine.token(8)
        self.fingerprint = fingerprint(job, hash_code(job.modules))
        self.sink: ObjectSink = sink or open_sink(job, request.roots, in_container=True)
        self._is_given_source = source is not None
        self.source: Source = source or self._open_source(job)
        self._cut_job = job
        self.ledger = Ledger(self.sink.store, request.run_id, self.driver_id, monotonic=self._machine.monotonic)
        self.epoch = 0
        #: Splits whose attempts may outlive this driver.
        self._n_abandoned = 0
        #: The one thread for listing, index and control objects; another pool for receipts.
        self._thread = self._machine.executor(1, "modalbatch-index")
        self._readers = self._machine.executor(8, "modalbatch-receipts")
        self.phase = "listing"
        self._settlement = Settlement(
            job, self.sink, self.ledger, index_thread=self._off, reader_threads=partial(self._in, self._readers)
        )
        self._settlement.go_on(request.before)
        self.n_kept = self.n_todo = 0
        self.todo_is_known = False
        self._is_asked_to_stop = self._is_handing_over = False
        #: When this driver hands over, and when it waits for attempts no longer, by the event loop's clock.
        self._ends_at = self._leaves_at = float("inf")
        #: Stragglers that were asked to share what is left.
        self._asked: set[str] = set()
        #: What a person should know of a run that ended well.
        self._warnings: list[str] = []
        #: The manifest that had `_SUCCESS` when this run removed it.
        self._unmarked: Manifest | None = None

    def _open_source(self, job: Job) -> Source:
        return open_source(
            job,
            self.request.roots,
            in_container=True,
            identity_cache=self.request.identity_cache,
            manifest_parts=live_parts,
        )

    def close(self) -> None:
        """Closes: threads."""
        self._thread.shutdown(wait=False)
        self._readers.shutdown(wait=False)

    # -- the order of a run

    async def conduct(self) -> Json:
        """The whole run; its outcome."""
        started = time.monotonic()
        if self._successor and self.request.driver_life_s:
            life_s = self.request.driver_life_s
            self._ends_at = asyncio.get_running_loop().time() + life_s
            self._leaves_at = self._ends_at + max(HAND_OVER_S, HAND_OVER_SHARE * life_s)
        try:
            outcome = await self.run()
        except Exception as error:
            if not isinstance(error, ModalbatchError):
                self.ledger.add("unexpected", traceback=traceback.format_exc()[-4000:])
            outcome = self.verdict("failed", error=as_ours(error))
        finally:
            self.close()
        more: Json = {"warnings": self._warnings} if self._warnings else {}
        if outcome.status == "handed_over":
            try:
                more["call_id"] = await self._start_successor()
            except Exception as error:
                outcome = self.verdict("failed", error=_engine_gone(error))
        data = (
            outcome.to_json() | more | {"run_id": self.request.run_id, "seconds": round(time.monotonic() - started, 3)}
        )
        if outcome.exit_code == ModalbatchError.exit_code:
            self._restore_success()
        await self.finish(data)
        return data

    async def _start_successor(self) -> str:
        """The id of the next driver's call."""
        assert self._successor
        request = replace(self.request, before=self._settlement.so_far())
        return str((await self._successor(request.to_text())).object_id)

    def _restore_success(self) -> None:
        """A run that could not even start leaves `_SUCCESS` as it was."""
        if self._unmarked is not None and not self._settlement.has_accepted:
            try:
                mark_success(self.sink, self._unmarked)
            except ModalbatchError as error:  # the next `apply` writes it
                self.ledger.add("success_not_restored", error=error.message)

    async def run(self) -> Verdict:
        """Plan, feed, publish; again when the sink moved meanwhile."""
        if self.request.fingerprint not in ("", self.fingerprint):
            raise StateError("the driver sees other files than the command did", hint="apply again")
        await self._off(self._check)
        is_measured = self.request.retry is None and is_to_be_measured(self.job, self.sink.owner())
        measured = await self._measure() if is_measured else None
        await self._off(self._begin, measured)
        for _ in range(MAX_PLANS):
            index = Index()
            try:
                verdict = await self._plan_and_run(index)
            except Moved as moved:
                self.ledger.add("moved", why=str(moved))
                continue
            finally:
                await self._off(index.close)
            return verdict
        raise BusyError("other runs keep changing the sink", hint="apply again when they are done")

    def _check(self) -> None:
        request, job = self.request, self.job
        check_owner(job, self.sink, into_existing=request.into_existing, adopt=request.adopt)
        if job.delivery == "exactly_once" and self.sink.store.has_conditional_create and self.sink.owner() is None:
            self.sink.store.probe()

    async def _measure(self) -> int | None:
        """Bytes of a split, from a sample of the input; None where that cannot be said."""
        sample = await self._off(sample_of, self.source)
        if sample is None:
            return None
        self.phase = "measuring"
        request = self.request
        split = Split(
            units=(sample.unit,),
            generation=0,
            fingerprint=self.fingerprint,
            run_id=request.run_id,
            roots=request.roots,
            is_sample=True,
        )
        try:
            seconds = await measure(self._map, split.to_text())
        except Exception as error:
            raise _engine_gone(error) from error
        n_slots = request.containers * self.job.handler.slots
        return None if seconds is None else rule_bytes(sample, seconds, n_slots)

    def _begin(self, measured_bytes: int | None) -> None:
        request, job = self.request, self.job
        owner = self.sink.claim(owner_of(job, measured_bytes))
        self._cut_job = cut_job(job, owner)
        if self._cut_job is not job and not self._is_given_source:
            self.source = self._open_source(self._cut_job)
        runs.begin(
            self.sink,
            request,
            job.name,
            self.fingerprint,
            self._machine.now(),
            decides=leaves(job),
            timeout_s=job.compute.timeout_s,
        )
        self.epoch = runs.take_epoch(self.sink, request.run_id, self.driver_id)
        self.ledger.add("driver_started", driver=self.driver_id, epoch=self.epoch, fingerprint=self.fingerprint)

    async def _plan_and_run(self, index: Index) -> Verdict:
        self._index = index
        self._sight = await self._off(self._look_at_sink, index)
        self._maker = SplitMaker(
            fingerprint=self.fingerprint,
            run_id=self.request.run_id,
            roots=self.request.roots,
            index=index,
            generation=self._sight.generation,
            containers=self.request.containers,
            packing=Packing.of(self._cut_job, is_measured=self._cut_job is not self.job),
        )
        self._round = self._n_idle_rounds = self._n_moves = 0
        self._is_unmarked = False
        self.phase, self.todo_is_known = "running", False
        n_slots = self.request.containers * self.job.handler.slots
        feed = Feed(n_slots, WINDOW_PER_SLOT * n_slots, self._thread, self._next_round)
        consuming = asyncio.ensure_future(self._consume(feed))
        looking = asyncio.create_task(self._look(feed, consuming))
        try:
            await consuming
        except asyncio.CancelledError:
            if not self._is_handing_over:
                raise
        finally:
            looking.cancel()
        if feed.error is not None:
            raise as_ours(feed.error)
        if self._settlement.stop_error is not None:
            return self.verdict("stopped", error=self._settlement.stop_error)
        if self._is_asked_to_stop:
            return self.verdict("stopped")
        if self._is_handing_over:
            return self.verdict("handed_over")
        verdict: Verdict = await self._off(self._publish)
        return verdict

    def _look_at_sink(self, index: Index) -> Sight:
        retry = self.request.retry
        if retry is None:
            return read_sink(self.sink, index, self.fingerprint, keep=self.request.keep)
        return plan_retry(self.sink, index, self.fingerprint, retry["error"]).sight

    def _publish(self) -> Verdict:
        index = self._index
        missing = index.n_missing()
        if missing:
            return self.verdict("failed", error=self._settlement.why_missing(missing))
        if runs.newest_epoch(self.sink, self.request.run_id) > self.epoch:
            raise BusyError("another driver of this run took over", hint=f"modalbatch status {self.request.run_id}")
        self.phase = "publishing"
        fence = judge(self.job, index.totals().counts, is_final=True)
        if fence.code == FenceError.exit_code and self.request.retry is None:
            return self.verdict("failed", error=fence.error)
        manifest = publish(self.sink, index, self._sight, self.request.run_id)
        verdict = self.verdict("done", manifest=manifest)
        self.ledger.add("published", manifest=manifest.number if manifest else 0)
        self._sweep(manifest)
        if verdict.exit_code == 0 and manifest:
            if not mark_success(self.sink, manifest):
                raise Moved("another run published while this one ended")
        else:
            # A limit of the spec may have changed since: the same sink is no success any more.
            self.sink.unmark_success()
        return verdict

    def _sweep(self, manifest: Manifest | None) -> None:
        """Nothing hangs on it: what is left is taken by the next one."""
        request = self.request
        engine = request.engine
        try:
            self.ledger.flush()
            sweep(
                self.sink,
                manifest,
                timeout_s=self.job.compute.timeout_s,
                none_is_running=lambda: (
                    engine.get("kind") == "local"
                    and runs.none_is_running(
                        self.sink, engine["home"], engine["id"], run_id=request.run_id, epoch=self.epoch
                    )
                ),
                # The clock of this machine may be set to anything.
                now=self.ledger.store_clock_s,
            )
        except ModalbatchError as error:
            self.ledger.add("sweep_failed", error=error.message)
            self._warnings.append(f"the sweep failed, the next `apply` sweeps again: {error.message}")

    # -- feeding

    def _next_round(self) -> Iterator[Split] | None:
        """On the index thread: first what the source holds and is not done, then what came back without a receipt."""
        index = self._index
        self._settlement.look_again(index)
        self._round += 1
        if self.request.retry is not None:
            return self._retry_round(self.request.retry["error"])
        if self._round == 1:
            return self._first_round()
        if self._round == 2:
            check_not_empty(self.job, index)
            index.settle_removed(self.job.source.on_removed)
        if self._round > 2 and self._settlement.n_moves == self._n_moves:
            self._n_idle_rounds += 1
        self._n_moves = self._settlement.n_moves
        if self._n_idle_rounds > MAX_ROUNDS or not index.n_missing():
            return None
        given_up = self._settlement.changed_inputs()
        units = [unit for unit in index.missing() if unit.uri not in given_up]
        carries = (carry for carry in index.carries() if given_up.isdisjoint(unit.uri for unit in carry.units))
        splits = self._maker.splits(iter(units))
        if self._settlement.n_lost:
            splits = (split.suspected() for split in splits)
        return self._noted(chain(splits, self._maker.carried(carries)))

    def _retry_round(self, error: str | None) -> Iterator[Split] | None:
        index = self._index
        if self._round > 1 + MAX_ROUNDS or not index.n_missing():
            return None
        self.todo_is_known = True
        given_up = self._settlement.changed_inputs()
        splits = retry_splits(self._maker, error)
        return self._noted(split for split in splits if given_up.isdisjoint(unit.uri for unit in split.units))

    def _first_round(self) -> Iterator[Split]:
        yield from self._noted(self._maker.splits(enumerate_missing(self.source, self._index)))
        self.todo_is_known = True
        self.n_kept = self._index.n_wanted() - self._index.n_undone

    def _noted(self, splits: Iterator[Split]) -> Iterator[Split]:
        """Splits, counted; `_SUCCESS` goes before the first receipt of a run that changes the sink."""
        for split in splits:
            if not self._is_unmarked:
                self._unmark()
            self.n_todo += 1
            yield split

    def _unmark(self) -> None:
        manifest = self._sight.manifest
        if manifest and (self.sink.success() or {}).get("manifest") == manifest.number:
            self._unmarked = manifest
        self.sink.unmark_success()
        self._is_unmarked = True

    async def _consume(self, feed: Feed) -> None:
        pending: set[asyncio.Task[None]] = set()
        try:
            async for answer in self._map(feed.__aiter__(), order_outputs=False, return_exceptions=True):
                task = asyncio.create_task(self._settlement.settle(feed, self._index, answer))
                pending.add(task)
                task.add_done_callback(pending.discard)
        except Exception as error:  # of the map itself, not of a split: the engine or the way to it is gone
            feed.stop()
            self._n_abandoned = feed.n_out
            raise _engine_gone(error) from error
        finally:
            if pending:
                await asyncio.gather(*pending)

    async def _look(self, feed: Feed, consuming: asyncio.Future[None]) -> None:
        """Every second: has somebody asked to stop, or another driver taken over? Twice a second: tell the progress."""
        loop, next_look = asyncio.get_running_loop(), 0.0
        while True:
            await self._tell()
            if loop.time() >= next_look:
                next_look = loop.time() + LOOK_S
                try:
                    await self._look_once(feed)
                except Exception as error:  # the next look may see more
                    self.ledger.add("look_failed", error=f"{type(error).__name__}: {error}"[:500])
                if loop.time() >= self._leaves_at and not consuming.done():
                    self._n_abandoned = feed.n_out
                    consuming.cancel()
            await asyncio.sleep(REPORT_S)

    async def _look_once(self, feed: Feed) -> None:
        run_id = self.request.run_id
        try:
            await self._off(self.sink.refresh)
        finally:  # what is visible counts
            if await self._off(runs.is_stopping, self.sink, run_id):
                self._is_asked_to_stop, self.phase = True, "stopping"
                feed.stop()
            if await self._off(runs.newest_epoch, self.sink, run_id) > self.epoch:
                self._settlement.stop(feed, BusyError("another driver of this run took over"))
        shared = feed.stragglers(STRAGGLER_S)
        if asyncio.get_running_loop().time() >= self._ends_at:
            # What is out comes back soon, with what is done of it; the next driver plans the rest.
            self._is_handing_over, self.phase, shared = True, "handing over", feed.out()
            feed.stop()
        for split_id in shared:
            if split_id not in self._asked:
                self._asked.add(split_id)
                await self._off(ask_to_divide, self.sink, run_id, split_id)
                self.ledger.add("asked_to_divide", split=split_id)

    async def _tell(self) -> None:
        try:
            await self._report(self.progress())
        except Exception as error:  # progress is a courtesy: whatever happens to it must not touch the run
            self.ledger.add("progress_failed", error=f"{type(error).__name__}: {error}"[:200])

    def progress(self) -> Json:
        """What a person wants to see now."""
        return {
            "run_id": self.request.run_id,
            "phase": self.phase,
            "counts": self._settlement.counts.to_json(),
            "splits": {
                "done": self._settlement.n_done,
                "kept": self.n_kept,
                "failed": self._settlement.n_failed,
                "todo": self.n_todo + self._settlement.n_more,
                "is_total": self.todo_is_known,
            },
            "at": round(time.time(), 3),
        }

    # -- the end

    def verdict(
        self, status: str, *, error: ModalbatchError | None = None, manifest: Manifest | None = None
    ) -> Verdict:
        """The outcome with this run's numbers."""
        return Verdict.of(
            self.job,
            status,
            error=error,
            manifest=manifest,
            counts=self._settlement.counts,
            splits={"done": self._settlement.n_done, "kept": self.n_kept, "failed": self._settlement.n_failed},
        )

    async def finish(self, outcome: Json) -> None:
        """The last words: ledger, end of the run, progress. A sink that is gone cannot take them."""
        self.ledger.add("driver_ended", status=outcome["status"], exit_code=outcome["exit_code"])
        if self.epoch:
            try:
                with suppress(ModalbatchError, OSError):  # the story is lost, how it ended need not be
                    self.ledger.flush()
                if outcome["status"] == "handed_over":
                    return
                runs.end(self.sink, self.request.run_id, self.epoch, {**outcome, "out": self._n_abandoned})
            except (ModalbatchError, OSError):
                return

    async def _off(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run something that waits for disk or network on the index thread."""
        return await self._in(self._thread, call, *args, **kwargs)

    async def _in(self, executor: Executor, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, lambda: call(*args, **kwargs))


def _engine_gone(error: Exception) -> UnavailableError:
    message = f"the engine does not answer any more: {type(error).__name__}: {error}"
    return UnavailableError(message, hint="apply again: what is done stays done")
