"""The worker: supervisor of its slots in one container. Runs on: container.

Owns an attempt from entry to receipt: it mints the attempt's id, lets a slot process the split, publishes parts,
and writes the receipt last. No user object and no exception ever leaves `process`.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modalbatch.canonical import encode
from modalbatch.errors import ModalbatchError
from modalbatch.fingerprint import fingerprint, hash_code
from modalbatch.job import Job
from modalbatch.records import SUSPECT_ENTRIES, Split, actual_uri
from modalbatch.runtime.again import Again, letters_path
from modalbatch.runtime.carry import carry_over
from modalbatch.runtime.child import Seat
from modalbatch.runtime.commit import commit_attempt, find_committed
from modalbatch.runtime.divide import condemned, divide_at, halves
from modalbatch.runtime.rehearse import is_rehearsal, rehearse
from modalbatch.runtime.signs import Signs
from modalbatch.runtime.supervise import SUSPECT, TIME, Outcome, supervise
from modalbatch.runtime.unit_log import unit_log_path
from modalbatch.sinks import open_sink
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import open_source
from modalbatch.stores.local_file import unavailable

Json = dict[str, Any]

#: A split that waits for a slot gives itself back after so many seconds: another container may have one.
WAIT_S = 3.0
#: This share of the timeout is for publishing.
RESERVE_SHARE = 0.1
#: A constructor may take this share of the container's start.
START_SHARE = 0.9


class Worker:
    """One for each container. `process` may run in `handler.slots + 1` threads: a slot never waits for the network."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = Job.from_json(dict(job))
        self.fingerprint = fingerprint(self.job, hash_code(self.job.modules))
        self._free: queue.Queue[Seat] = queue.Queue()
        self._sinks: dict[str, ObjectSink] = {}
        self._is_closed = False
        #: Records that memory allows in the handler together, as a split has found out; 0: not known.
        self._most = 0
        seats = [Seat(self.job) for _ in range(self.job.handler.slots)]
        children = [seat.child() for seat in seats]
        for seat, child in zip(seats, children, strict=True):
            # A constructor may load a model: that is the container's start, not the first split's time. What goes
            # wrong is said by the first split, where a person sees it.
            child.ready(seat.start_timeout_s * START_SHARE)
            self._free.put(seat)

    def process(self, text: str) -> str:
        """Run one attempt of one split; JSON text: `status`, `split`, and what the status needs.

        Retry-safe: yes; a split that has its receipt is answered from it.
        """
        if is_rehearsal(text):
            return self._rehearse(text)
        split = Split.from_text(text)
        try:
            answer = self._attempt(split)
        except (ModalbatchError, OSError) as error:  # an `OSError` is the disk's
            failed = error if isinstance(error, ModalbatchError) else unavailable(error, "write", error.filename or "")
            kind, message, hint = type(failed).__name__, failed.message, failed.hint
            answer = {"status": "failed", "error": kind, "message": message, "hint": hint}
        if answer["status"] != "done":
            answer["task"] = text  # the map does not say whose answer it is
        elif split.carry:
            answer["is_carried"] = True
        return encode({"split": split.id, **answer})

    def _rehearse(self, text: str) -> str:
        seat = self._free.get()
        try:
            return encode(rehearse(self.job, seat, text))
        finally:
            self._free.put(seat)

    def close(self) -> None:
        """End the slots, letting each handler's `close()` run."""
        self._is_closed = True
        for _ in range(self.job.handler.slots):
            with contextlib.suppress(queue.Empty):
                error = self._free.get_nowait().close(self.job.handler.timeout_s or 10.0)
                if error:
                    sys.stderr.write(f"close() of the handler raised {error['type']}: {error['message']}\n")

    def sink(self, roots: Mapping[str, str]) -> ObjectSink:
        """The sink under these roots; one client for the life of the container."""
        key = actual_uri(self.job.sink.uri, roots)
        if key not in self._sinks:
            self._sinks[key] = open_sink(self.job, roots, in_container=True)
        return self._sinks[key]

    def _attempt(self, split: Split) -> Json:
        started = time.monotonic()
        attempt = secrets.token_hex(16)
        if not split.carry and split.fingerprint != self.fingerprint and not self.job.handler.version:
            message = "the handler's files in this container are not those that the driver saw"
            return {"status": "refused", "message": message}
        sink = self.sink(split.roots)
        committed = None if split.is_sample else find_committed(sink, split)
        if committed:
            return committed
        if split.carry:
            return self._carry(sink, split, attempt, started)
        timeout_s = float(self.job.compute.timeout_s)
        spool = Path(sink.store.spool_dir())
        paths = spool / f"{attempt}.part", spool / f"{attempt}.dead"
        try:
            again = Again(sink, split, paths[0]) if split.retry else None
            try:
                seat = self._free.get(timeout=min(WAIT_S, timeout_s * RESERVE_SHARE))
            except queue.Empty:
                return {"status": "again"}
            until = started + timeout_s * (1 - RESERVE_SHARE)
            signs = Signs(sink, split, attempt) if _may_be_divided(split) else None
            is_settled = False
            try:
                split = replace(split, most=_least(self._most, split.most))
                task = replace(again.split, most=split.most) if again else split
                outcome = self._supervise(task, seat, paths, until - time.monotonic(), signs)
                is_settled = outcome.status != "start_failed"
            finally:
                if not is_settled:  # whatever sits there may still be busy with this split
                    seat.vacate()
                self._free.put(seat)
            if again and outcome.answer is not None:
                outcome = Outcome(answer=again.finish(outcome.answer, paths[1]))
            answer = self._finish(split, attempt, outcome, paths, started)
            if signs:
                signs.end()
            return answer
        finally:
            with contextlib.suppress(OSError):  # a disk that fails has said so already
                for path in (*paths, unit_log_path(paths[0]), letters_path(paths[0])):
                    path.unlink(missing_ok=True)

    def _supervise(
        self, split: Split, seat: Seat, paths: tuple[Path, Path], left_s: float, signs: Signs | None
    ) -> Outcome:
        if not signs:
            return supervise(self.job, seat, split, paths, left_s)
        signs.begin()
        if not signs.is_suspect:
            return supervise(self.job, seat, split, paths, left_s, signs=signs)
        parts = self._shared(split, SUSPECT)
        if len(parts) > 1:
            return Outcome(status="divided", details={"rest": [part.to_text() for part in parts]})
        # One line that cannot be divided: it is tried until its own entries condemn it.
        if signs.n_others >= SUSPECT_ENTRIES:
            split = condemned(split, signs.n_others)
        return supervise(self.job, seat, split, paths, left_s)

    def _carry(self, sink: ObjectSink, split: Split, attempt: str, started: float) -> Json:
        """An attempt without a slot: what an older receipt has of these units is copied."""
        spool = Path(sink.store.spool_dir())
        paths = spool / f"{attempt}.part", spool / f"{attempt}.dead"
        try:
            outcome = Outcome(answer=carry_over(self.job, sink, split, paths))
            return self._finish(split, attempt, outcome, paths, started)
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    def _finish(self, split: Split, attempt: str, outcome: Outcome, paths: tuple[Path, Path], started: float) -> Json:
        if outcome.left_at is not None and _may_be_divided(split):
            return self._leave(split, attempt, outcome, paths, started)
        if outcome.answer is None:
            return {"status": outcome.status, **outcome.details}
        if most := outcome.answer.get("most", 0):
            # A hint for the splits to come: it decides no data.
            self._most = _least(most, self._most)
        hint = {"most": self._most} if self._most else {}
        if split.is_sample:
            return {"status": "measured", "seconds": outcome.answer["seconds"]}
        return self._commit(split, attempt, outcome.answer, paths, started) | hint

    def _commit(self, split: Split, attempt: str, found: Json, paths: tuple[Path, Path], started: float) -> Json:
        return commit_attempt(
            self.job,
            self.sink(split.roots),
            split,
            attempt,
            answer=found,
            paths=paths,
            elapsed_s=lambda: time.monotonic() - started,
        )

    def _leave(self, split: Split, attempt: str, outcome: Outcome, paths: tuple[Path, Path], started: float) -> Json:
        """Commit what is done of a split that was left before its end; the rest goes back."""
        split = replace(split, suspects=outcome.suspects)
        divided = divide_at(split, outcome.left_at, paths) if outcome.left_at else None
        if divided is None:
            if outcome.why == TIME:
                return {"status": outcome.status, **outcome.details}
            return {"status": "divided", "rest": [part.to_text() for part in self._shared(split, outcome.why)]}
        answer = self._commit(divided.done, attempt, divided.answer, paths, started)
        if answer["status"] == "done":
            # A split that was too long goes on as it is: counting its lines may take longer than is left.
            rest = [divided.rest] if outcome.why == TIME else self._shared(divided.rest, outcome.why)
            answer["rest"] = [item.to_text() for item in rest]
        return answer

    def _shared(self, split: Split, why: str) -> list[Split]:
        """What is left of a split, in halves."""
        parts = halves(open_source(self.job, split.roots, in_container=True), split)
        return [part.suspected() for part in parts] if why == SUSPECT else parts


def _least(*sizes: int) -> int:
    """The smallest that is known; 0: none is."""
    return min(filter(None, sizes), default=0)


def _may_be_divided(split: Split) -> bool:
    return not (split.is_sample or split.carry or split.retry)


#: What tests and harnesses put in the place of a Modal method.
Process = Callable[[str], str]
