"""Carrying over: what is gone from the source keeps its output when the rest of its split is done again.

Runs on: container. Owns the copy of the records and dead letters of some units of an older receipt. It calls no
handler and decodes no record; refuses a part that is not what its receipt says.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from modalbatch.errors import NotFoundError, StateError, UnavailableError
from modalbatch.formats.compression import infer_compression, open_compressor, open_decompressor
from modalbatch.job import Job
from modalbatch.records import Counts, Part, Receipt, Split, total
from modalbatch.runtime.spool import Spool
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores import Store

Json = dict[str, Any]

_PIECE_BYTES = 1 << 20
_HINT = "put it back from a copy, or let go of the output of inputs that are gone with `source: {on_removed: drop}`"


class _Range(NamedTuple):
    """Records of a unit, in all parts of a receipt together."""

    first: int
    end: int


def carry_over(job: Job, sink: ObjectSink, split: Split, paths: tuple[Path, Path]) -> Json:
    """Copy what the receipt `split.carry` holds of the split's units to `paths`; an answer as a slot gives it.

    Memory: one piece. Raises:
        UnavailableError: the receipt or a part is gone: another run has published meanwhile, or somebody deleted it.
        StateError: a part is not what its receipt says.
    """
    old = sink.read_receipt(split.carry)
    if old is None:
        raise UnavailableError(f"`{split.carry}` of the sink is gone", hint="apply again")
    counts = _counts(old, split)
    compress = None if job.sink.compression == "none" else open_compressor(job.sink.compression)
    return {
        "counts": asdict(total(counts)),
        "units": [asdict(item) for item in counts],
        "part": _copy(sink.store, old.parts, _ranges(old, split, lambda item: item.out), Spool(paths[0], compress)),
        "dead": _copy(sink.store, old.dead, _ranges(old, split, lambda item: item.dead), Spool(paths[1], None)),
    }


def _counts(old: Receipt, split: Split) -> list[Counts]:
    known = {unit.id: counts for unit, counts in zip(old.units, old.unit_counts, strict=True)}
    try:
        return [known[unit.id] for unit in split.units]
    except KeyError:
        raise StateError(f"`{split.carry}` of the sink does not cover what is to be carried over") from None


def _ranges(old: Receipt, split: Split, n_records: Callable[[Counts], int]) -> list[_Range]:
    """Where the split's units lie: parts hold the results of the units one after the other."""
    wanted, ranges, first = {unit.id for unit in split.units}, [], 0
    for unit, counts in zip(old.units, old.unit_counts, strict=True):
        end = first + n_records(counts)
        if unit.id in wanted and end > first:
            ranges.append(_Range(first, end))
        first = end
    return ranges


def _copy(store: Store, parts: tuple[Part, ...], ranges: list[_Range], spool: Spool) -> list[Any]:
    """Bytes and sha256 of the lines in these ranges."""
    piece = bytearray()
    try:
        for line in _chosen(_lines(store, parts) if ranges else iter(()), ranges):
            piece += line
            if len(piece) > _PIECE_BYTES:
                spool.append(piece)
                piece.clear()
        if piece:
            spool.append(piece)
    finally:
        sha256 = spool.close()
    return [spool.n_bytes, sha256]


def _chosen(lines: Iterator[bytes], ranges: list[_Range]) -> Iterator[bytes]:
    at = 0
    for first, end in ranges:
        yield from islice(lines, first - at, end - at)
        at = end
    for _ in lines:  # to the end of the last part: only then its hash is known
        pass


def _lines(store: Store, parts: tuple[Part, ...]) -> Iterator[bytes]:
    """Every line of the parts, checked: the caller has seen the last one when a part proves to be altered."""
    for part in parts:
        try:
            raw = store.open(part.name)
        except NotFoundError:
            raise UnavailableError(f"`{part.name}` of the sink is gone", hint=_HINT) from None
        n_lines = 0
        with raw:
            hashed = _Hashed(raw)
            plain = open_decompressor(cast("BinaryIO", hashed), infer_compression(part.name), part.name)
            for line in io.BufferedReader(plain, _PIECE_BYTES):
                n_lines += 1
                yield line
            for _ in iter(partial(hashed.read, _PIECE_BYTES), b""):  # what the decompressor left
                pass
        if hashed.sha.hexdigest() != part.sha256 or n_lines != part.records:
            raise StateError(f"`{part.name}` of the sink was altered", hint=_HINT)


class _Hashed(io.RawIOBase):
    """A raw stream that hashes what passes."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__()
        self._raw = raw
        self.sha = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n_bytes = int(self._raw.readinto(buffer))  # type: ignore[attr-defined]
        self.sha.update(memoryview(buffer)[:n_bytes])
        return n_bytes
