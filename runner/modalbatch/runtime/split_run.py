"""One split in a slot: from its first line to its counts. Runs on: container.

Owns the hot path: bytes → record → handler → bytes into one large buffer, and the order in which outcomes are settled,
so that a checkpoint always means "everything before this line, nothing after".
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from modalbatch.canonical import encode
from modalbatch.errors import CorruptInputError
from modalbatch.formats import open_format
from modalbatch.formats.compression import infer_compression, open_compressor
from modalbatch.job import Job
from modalbatch.records import ALL_LINES, Counts, Split, Unit
from modalbatch.runtime.attempts import RAISED, Item, Policy, Runner, UsedSlot, failure
from modalbatch.runtime.callers import Callers, Work
from modalbatch.runtime.handler import Failure, Handler, Record, merged, normal
from modalbatch.runtime.letter import letter_of
from modalbatch.runtime.progress import CALLS, FLUSH, HIGH, LOW, NONE, READING, STOP, WAITING, Checkpoint, Progress
from modalbatch.runtime.spool import Spool
from modalbatch.runtime.unit_log import UnitLog, unit_log_path
from modalbatch.sources import open_source
from modalbatch.sources.lines import LongLine

#: Encoded records are written in pieces of this size: large enough for the compressor and the system call.
PIECE_BYTES = 1 << 20


class Task(NamedTuple):
    """What the worker asks for: a split, from a checkpoint on, with what it knows of bad records."""

    split: Split
    part_path: Path
    dead_path: Path
    resume: Checkpoint
    #: (low, high, most): records [low, high) are handed over at most `most` at a time, one call after the other.
    cuts: list[tuple[int, int, int]]
    #: Ordinal → what became of it: records that killed or hung a slot.
    poison: dict[int, Failure]
    #: Ordinals of records that a slot has died of: the next one has called nothing else before.
    suspects: frozenset[int] = frozenset()
    #: Records that may be in the handler together, where memory allows less than the spec; 0: not known.
    most: int = 0


class FailedRecord(Exception):
    """`on_error: fail`: the first failed record ends the run."""

    def __init__(self, letter: dict[str, Any]) -> None:
        super().__init__("a record failed")
        self.letter = letter


class StoppedEarly(Exception):
    """The worker asked for it; the checkpoint says what is done."""


class SplitRun:
    """One task, from its first line to its counts."""

    def __init__(self, job: Job, handler: Handler, callers: Callers, progress: Progress, task: Task) -> None:
        self.job, self.handler, self.callers, self.progress, self.task = job, handler, callers, progress, task
        self.policy = Policy(job, most=task.most)
        source_format, sink_format = open_format(job.source.format), open_format(job.sink.format)
        self.decode, self.encode = source_format.decoder(), sink_format.encoder()
        reading = source_format.bare()
        self.bare = sink_format.bare()._replace(loads=reading.loads, mark=reading.mark, is_doubtful=reading.is_doubtful)
        self._ticking = threading.Lock()
        self.runner = Runner(handler, self.decode, self._tick)
        resume = task.resume
        self.part = Spool(task.part_path, _compressor(job.sink.compression), resume.part_bytes)
        self.dead = Spool(task.dead_path, None, resume.dead_bytes)
        self.unit_log = UnitLog(unit_log_path(task.part_path), resume.ordinal)
        self.counts = dict(zip(Counts.__slots__, resume[3:], strict=True))
        self.buffer = bytearray()
        self.dead_buffer = bytearray()
        self.ordinal = resume.ordinal
        self.unit = task.split.units[0]
        #: Ordinal in the split of the unit's line 0, which a piece of the unit may not hold.
        self.line_0 = 0

    @staticmethod
    def load(job: Job) -> None:
        """Import what a split needs, before the handler may change where modules come from."""
        for name in {job.source.format, job.sink.format}:
            open_format(name).encoder()
        for compression in {job.sink.compression, *map(infer_compression, job.source.uris)}:
            open_compressor(compression)(b"")
        open_source(job, {}, in_container=True)

    def run(self) -> dict[str, Any]:
        """Process all units; the summary that the worker turns into a receipt.

        Raises:
            FailedRecord: a record failed and the spec says `on_error: fail`.
            StoppedEarly: the worker asked for it.
            ModalbatchError: the source or the disk failed.
        """
        source = self.open_source()
        done, self.ordinal = self.ordinal, 0
        for index, unit in enumerate(self.task.split.units):
            self.unit, self.line_0 = unit, self.ordinal - unit.low
            self.progress.words[LOW] = NONE
            self._run_unit(source, unit, done)
            self.unit_log.finish(index, self.ordinal, self.counts)
        self.checkpoint(self.ordinal)
        return {
            "counts": self.counts,
            "units": self.unit_log.each(),
            "part": [self.part.n_bytes, self.part.close()],
            "dead": [self.dead.n_bytes, self.dead.close()],
        }

    def open_source(self) -> Any:
        """Where the lines of the units come from."""
        return open_source(self.job, self.task.split.roots, in_container=True)

    def lines_of(self, unit: Unit) -> tuple[int, int]:
        """Which lines of what the source opens are the unit's."""
        return unit.low, unit.high

    def _run_unit(self, source: Any, unit: Unit, done: int) -> None:
        """The lines of a unit that no earlier slot has done."""
        low, high = self.lines_of(unit)
        is_reached = not low
        try:
            with source.open(unit) as stream:
                stream.on_read = self._reading
                for _ in islice(stream, low):
                    pass
                is_reached = True
                for _ in islice(stream, max(0, done - self.ordinal)):
                    self.ordinal += 1
                n_lines = high - (self.ordinal - self.line_0)
                lines = stream if high == ALL_LINES else islice(stream, n_lines)
                (self.each if self._is_plain() else self.calls)(stream, lines)
        except CorruptInputError as error:
            if not is_reached:
                return  # it breaks before this piece, and is the affair of an earlier one
            if self.ordinal >= done:
                self._lose_rest(error)
            self.ordinal += 1  # what is lost has a number too, so that a later slot knows that it is settled

    def _is_plain(self) -> bool:
        job = self.job.handler
        return job.batch_size is None and job.concurrency == 1 and not self.handler.is_async

    # -- one record at a time, in this thread: the hot path

    def each(self, stream: Any, lines: Iterable[bytes]) -> None:
        """Lines of a stream through the bare handler. What is common is not counted: it is what the rest leaves."""
        loads, mark, is_doubtful, dumps, refuse, delimiter = self.bare
        call, keep = self.handler.bare(), self.job.handler.keep
        words, buffer, special = self.progress.words, self.buffer, {*self.task.poison, *self.task.suspects}
        ordinal = begun = self.ordinal
        n_filtered = n_special = n_more = 0
        try:
            for line in lines:
                words[LOW] = ordinal
                try:
                    record = loads(line)
                    if (
                        type(record) is not dict
                        or (len(record) != (n_marks := line.count(mark)) and is_doubtful(line, record, n_marks))
                        or (special and ordinal in special)
                    ):
                        raise _NotForTheHandler
                    kept = {name: record[name] for name in keep if name in record} if keep else None
                    result = call(record)
                    if type(result) is dict:
                        if kept:
                            result = self._with_kept(result, kept, line)
                        for value in result.values():
                            kind = type(value)
                            if kind is not str and kind is not int:
                                refuse(value)
                        buffer += dumps(result)
                        buffer += delimiter
                    elif result is None:
                        n_filtered += 1
                    else:
                        n_more += self._append(normal(result), line) - 1
                except (Exception, SystemExit) as error:
                    self._not_simply_done(Item(ordinal, _offset(stream, line), line, {}), error)
                    n_special += 1
                ordinal += 1
                # The words first: in a fork of this process they are gone, and what it has in its buffer is no part.
                if words[FLUSH] or len(buffer) > PIECE_BYTES:
                    self._add(ordinal - begun - n_special, n_filtered, n_more)
                    begun, n_filtered, n_special, n_more = ordinal, 0, 0, 0
                    self.checkpoint(ordinal)
                    if words[STOP]:
                        raise StoppedEarly
        finally:  # a stream that breaks off in the middle leaves what was before
            self._add(ordinal - begun - n_special, n_filtered, n_more)
            self.ordinal = ordinal

    def _add(self, n_simple: int, n_filtered: int, n_more: int) -> None:
        counts = self.counts
        counts["in_"] += n_simple
        counts["filtered"] += n_filtered
        counts["out_of"] += n_simple - n_filtered
        counts["out"] += n_simple - n_filtered + n_more

    def _not_simply_done(self, item: Item, error: BaseException) -> None:
        """A line that is blank, undecodable, known as poison, suspect, or whose record failed."""
        try:
            item = item._replace(record=self._record(item.line))
        except ValueError as unreadable:
            self._unreadable(item, unreadable)
            return
        known = self.task.poison.get(item.ordinal)
        if not known:
            self._check_slot(item.ordinal)
            failed = None if isinstance(error, _NotForTheHandler) else error
            known = self.runner.run(self.policy.settle([item], failed))[0]
        self.settle(item, known)

    def _check_slot(self, ordinal: int) -> None:
        """Raise `UsedSlot` before a suspect, unless it is the first that this slot calls the handler with."""
        if ordinal in self.task.suspects and (self.handler.is_used or ordinal > self.task.resume.ordinal):
            raise UsedSlot(ordinal)

    # -- batches, threads, tasks

    def calls(self, stream: Any, lines: Iterable[bytes]) -> None:
        """These lines of a stream in calls of up to `batch_size` records, up to `concurrency` at a time; settled in
        reading order."""
        words = self.progress.words
        pending: deque[tuple[Work, Future[list[Any]] | None]] = deque()
        try:
            for work in self._works(stream, lines):
                if words[STOP]:
                    self._finish_all(pending)
                    self.checkpoint(work.low)
                    raise StoppedEarly
                while pending and (
                    work.alone
                    or len(pending) >= self.callers.allowed(self.job.handler.batch_size or 1, self.policy.most)
                ):
                    self._finish(pending)
                if work.alone:
                    self._check_slot(work.low)
                words[HIGH] = work.high
                words[LOW] = pending[0][0].low if pending else work.low
                future = self.callers.submit(self.policy, self.runner, work.items) if work.items else None
                pending.append((work, future))
                if work.alone:
                    self._finish(pending)
        except CorruptInputError:
            self._finish_all(pending)
            raise
        self._finish_all(pending)

    def _finish_all(self, pending: deque[tuple[Work, Future[list[Any]] | None]]) -> None:
        while pending:
            self._finish(pending)
        self.progress.words[HIGH] = 0

    def _finish(self, pending: deque[tuple[Work, Future[list[Any]] | None]]) -> None:
        work, future = pending[0]
        if work.known:
            work.known()
        for item, result in zip(work.items, future.result() if future else (), strict=True):
            self.settle(item, result)
        pending.popleft()
        self.progress.words[LOW] = work.high
        if self.progress.words[FLUSH] or len(self.buffer) > PIECE_BYTES:
            self.checkpoint(work.high)

    def _works(self, stream: Any, lines: Iterable[bytes]) -> Iterator[Work]:
        """Lines as work, in order. A line that needs no call still waits for its turn."""
        size = self.job.handler.batch_size or 1
        items: list[Item] = []
        cut: tuple[int, int, int] | None = None
        lost = None
        try:
            for line in lines:
                ordinal = self.ordinal
                self.ordinal += 1
                item, known = self._read(ordinal, _offset(stream, line), line)
                now = next((cut for cut in self.task.cuts if cut[0] <= ordinal < cut[1]), None)
                if items and (known or now != cut):
                    yield Work.of(items, cut)
                    items = []
                if known:
                    yield Work(ordinal, ordinal + 1, [], False, known)
                    continue
                cut = now
                items.append(item)
                if len(items) >= min(size, cut[2] if cut else size, self.policy.most or size):
                    yield Work.of(items, cut)
                    items = []
        except CorruptInputError as error:
            lost = error  # what was read before it is still to be done
        if items:
            yield Work.of(items, cut)
        if lost:
            raise lost

    def _read(self, ordinal: int, offset: int, line: bytes) -> tuple[Item, Callable[[], None] | None]:
        item = Item(ordinal, offset, line, {})
        try:
            item = item._replace(record=self._record(line))
        except ValueError as error:
            unreadable = error
            return item, lambda: self._unreadable(item, unreadable)
        if ordinal in self.task.poison:
            return item, lambda: self.settle(item, self.task.poison[ordinal])
        return item, None

    def _record(self, line: bytes) -> Record:
        """The record of a line; `ValueError` where it has none."""
        if isinstance(line, LongLine):
            most = self.job.source.max_record_bytes
            raise ValueError(f"a record of {line.n_bytes} bytes, more than `source.max_record` ({most})")
        return self.decode(line)  # type: ignore[no-any-return]

    # -- outcomes

    def settle(self, item: Item, result: Any) -> None:
        """Put one record's outcome where it belongs."""
        self.counts["in_"] += 1
        if isinstance(result, Failure):
            self._failed(item, result)
        elif result is None:
            self.counts["filtered"] += 1
        else:
            try:
                self.counts["out"] += self._append(result, item.line)
            except RAISED as error:  # of objects of the handler that are asked for their form only now
                self._failed(item, failure(error, 1))
            else:
                self.counts["out_of"] += 1

    def _append(self, result: Any, line: bytes) -> int:
        """Encode one result or many, all or none; how many.

        Raises:
            Exception: one of them cannot be written.
        """
        many = [result] if isinstance(result, dict) else result
        keep = self.job.handler.keep
        # Decoded anew: the handler may have changed what it was given.
        record = self.decode(line) if keep else {}
        kept = {name: record[name] for name in keep if name in record}
        mark = len(self.buffer)
        try:
            for one in many:
                self.encode(merged(one, kept) if kept else one, self.buffer)
        except RAISED:
            del self.buffer[mark:]
            raise
        return len(many)

    def _with_kept(self, result: Record, kept: Record, line: bytes) -> Record:
        """`result` with the fields to keep, as they were read: the handler may have changed what is in them."""
        if any(type(value) is dict or type(value) is list for value in kept.values()):
            record = self.decode(line)
            kept = {name: record[name] for name in kept}
        return merged(result, kept)

    def _lose_rest(self, error: CorruptInputError) -> None:
        """The rest of a unit that cannot be read: one dead letter for records that nobody can count."""
        self.counts["in_"] += 1
        described = {"type": type(error).__name__, "message": error.message, "traceback": ""}
        self._failed(Item(self.ordinal, -1, b"", {}), Failure("undecodable", described, 1))

    def _unreadable(self, item: Item, error: ValueError) -> None:
        is_long = isinstance(item.line, LongLine)
        if not is_long and not item.line.strip(b" \t\r\n"):
            self.counts["blank"] += 1
            return
        self.counts["in_"] += 1
        cause = "oversize" if is_long else "undecodable"
        self._failed(item, Failure(cause, {"type": cause, "message": str(error), "traceback": ""}, 1))

    def _failed(self, item: Item, failed: Failure) -> None:
        kind = self.job.on_error.record
        if kind == "drop":
            self.counts["dropped"] += 1
            return
        letter = self._letter(item, failed)
        if kind == "fail":
            raise FailedRecord(letter)
        self.counts["dead"] += 1
        self.dead_buffer += encode(letter).encode() + b"\n"
        if len(self.dead_buffer) > PIECE_BYTES:
            self.progress.words[FLUSH] = 1

    def _letter(self, item: Item, failed: Failure) -> dict[str, Any]:
        return letter_of(item, failed, unit=self.unit, line_0=self.line_0, decode=self.decode)

    def _reading(self, begins: bool) -> None:
        """Tell the worker that the source is slow, and no call."""
        self.progress.words[READING] = begins

    def _tick(self, waits: int) -> None:
        """Tell the worker that this is a new try, or a wait, and not a call that hangs."""
        with self._ticking:
            self.progress.words[WAITING] += waits
            self.progress.words[CALLS] += 1

    def checkpoint(self, ordinal: int) -> None:
        """Everything before `ordinal` goes to the spool files; a slot that dies later costs nothing of it."""
        if self.buffer:
            self.part.append(self.buffer)
            self.buffer.clear()
        if self.dead_buffer:
            self.dead.append(self.dead_buffer)
            self.dead_buffer.clear()
        self.progress.save(Checkpoint(ordinal, self.part.n_bytes, self.dead.n_bytes, *self.counts.values()))
        self.progress.words[FLUSH] = 0


def _offset(stream: Any, line: bytes) -> int:
    """Where the line that was just read begins in its (decompressed) object."""
    return int(stream.raw.first_byte + stream.tell() - len(line))


def _compressor(compression: str) -> Callable[[bytes], bytes] | None:
    return None if compression == "none" else open_compressor(compression)


class _NotForTheHandler(Exception):
    pass
