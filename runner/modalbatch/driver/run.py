"""One run, from the driver's first line to `_SUCCESS`. Runs on: container.

Owns the order: epoch, plan, feed, manifest, sweep, `_SUCCESS`. A returned value or an
exception of a worker only triggers a look at the receipt.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from modalbatch.canonical import Json
from modalbatch.driver import runs
from modalbatch.driver.again import plan_retry
from modalbatch.driver.feed import Feed
from modalbatch.driver.index import Index
from modalbatch.driver.ledger import Ledger
from modalbatch.driver.lookout import Lookout
from modalbatch.driver.machine import Machine
from modalbatch.driver.plan import (
    Packing,
    Sight,
    SplitMaker,
    check_owner,
    owner_of,
    read_sink,
)
from modalbatch.driver.publish import Moved, mark_success, publish
from modalbatch.driver.reason import leaves
from modalbatch.driver.rounds import Rounds
from modalbatch.driver.rule import cut_job, is_to_be_measured, measure, rule_bytes, sample_of
from modalbatch.driver.settle import Settlement, as_ours
from modalbatch.driver.sweep import sweep
from modalbatch.driver.verdict import Verdict, judge
from modalbatch.errors import BusyError, FenceError, ModalbatchError, StateError, UnavailableError
from modalbatch.fingerprint import fingerprint, hash_code
from modalbatch.job import Job
from modalbatch.records import Manifest
from modalbatch.sinks import live_parts, open_sink
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import Source, open_source

#: `Worker().process.map.aio`, or what a harness puts in its place.
Map = Callable[..., AsyncIterator[Any]]
Report = Callable[[Json], Awaitable[None]]
#: `drive.spawn.aio`: from a request to the call that works on it.
Spawn = Callable[[str], Awaitable[Any]]

#: Splits out for each slot while they are short: enough that none waits for the driver.
WINDOW_PER_SLOT = 3
#: Times that everything may be planned again because the sink moved.
MAX_PLANS = 5


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
        #: The one thread for listing, index and control objects; another pool for receipts.
        self._thread = self._machine.executor(1, "modalbatch-index")
        self._readers = self._machine.executor(8, "modalbatch-receipts")
        self.phase = "listing"
        self._settlement = Settlement(
            job, self.sink, self.ledger, index_thread=self._off, reader_threads=partial(self._in, self._readers)
        )
        self._settlement.go_on(request.before)
        self._rounds: Rounds | None = None
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
        self._lookout = Lookout(
            self.sink,
            self.request.run_id,
            self.ledger,
            self._settlement,
            off=self._off,
            life_s=self.request.driver_life_s if self._successor else 0.0,
        )
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
            index = Index(self._machine.database())
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
        try:
            seconds = await measure(self._map, sample.split(request, self.fingerprint))
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
        maker = SplitMaker(
            fingerprint=self.fingerprint,
            run_id=self.request.run_id,
            roots=self.request.roots,
            index=index,
            generation=self._sight.generation,
            containers=self.request.containers,
            packing=Packing.of(self._cut_job, is_measured=self._cut_job is not self.job),
        )
        self._rounds = rounds = Rounds(
            self.job,
            self.source,
            maker,
            self._settlement,
            retry=self.request.retry,
            before_first=self._unmark,
        )
        self.phase = "running"
        n_slots = self.request.containers * self.job.handler.slots
        feed = Feed(n_slots, WINDOW_PER_SLOT * n_slots, self._thread, rounds.next)
        consuming = asyncio.ensure_future(self._consume(feed))
        looking = asyncio.create_task(self._lookout.look(feed, self.epoch, consuming, self._tell))
        try:
            await consuming
        except asyncio.CancelledError:
            if not self._lookout.is_handing_over:
                raise
        finally:
            looking.cancel()
        if feed.error is not None:
            raise as_ours(feed.error)
        if self._settlement.stop_error is not None:
            return self.verdict("stopped", error=self._settlement.stop_error)
        if self._lookout.is_asked_to_stop:
            return self.verdict("stopped")
        if self._lookout.is_handing_over:
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

    def _unmark(self) -> None:
        """`_SUCCESS` goes before the first receipt of a run that changes the sink."""
        manifest = self._sight.manifest
        if manifest and (self.sink.success() or {}).get("manifest") == manifest.number:
            self._unmarked = manifest
        self.sink.unmark_success()

    async def _consume(self, feed: Feed) -> None:
        pending: set[asyncio.Task[None]] = set()
        try:
            async for answer in self._map(feed.__aiter__(), order_outputs=False, return_exceptions=True):
                task = asyncio.create_task(self._settlement.settle(feed, self._index, answer))
                pending.add(task)
                task.add_done_callback(pending.discard)
        except Exception as error:  # of the map itself, not of a split: the engine or the way to it is gone
            feed.stop()
            self._lookout.n_abandoned = feed.n_out
            raise _engine_gone(error) from error
        finally:
            if pending:
                await asyncio.gather(*pending)

    async def _tell(self) -> None:
        try:
            await self._report(self.progress())
        except Exception as error:  # progress is a courtesy: whatever happens to it must not touch the run
            self.ledger.add("progress_failed", error=f"{type(error).__name__}: {error}"[:200])

    def progress(self) -> Json:
        """What a person wants to see now."""
        rounds = self._rounds
        return {
            "run_id": self.request.run_id,
            "phase": self._lookout.phase or self.phase,
            "counts": self._settlement.counts.to_json(),
            "splits": {
                "done": self._settlement.n_done,
                "kept": rounds.n_kept if rounds else 0,
                "failed": self._settlement.n_failed,
                "todo": (rounds.n_fed if rounds else 0) + self._settlement.n_more,
                "is_total": bool(rounds and rounds.is_listed),
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
            splits={
                "done": self._settlement.n_done,
                "kept": self._rounds.n_kept if self._rounds else 0,
                "failed": self._settlement.n_failed,
            },
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
                runs.end(self.sink, self.request.run_id, self.epoch, {**outcome, "out": self._lookout.n_abandoned})
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
