"""Carrying over: what is gone from the source keeps its output when the rest of its split is done again.

Runs on: container. Owns the copy of the records and dead letters of some units of an older receipt. It calls no
handler and decodes no record; refuses a part that is not what its receipt says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import accumulate, chain, cycle, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from modalbatch.errors import StateError, UnavailableError
from modalbatch.formats.compression import open_compressor
from modalbatch.job import Job
from modalbatch.records import Counts, Part, Receipt, Split, total
from modalbatch.runtime.spool import Spool
from modalbatch.sinks.content import read_lines
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
    counts, wanted = _counts(old, split), {unit.id for unit in split.units}
    lying, dead = old.lying, [[item.dead for item in old.unit_counts]]
    compress = None if job.sink.compression == "none" else open_compressor(job.sink.compression)
    return {
        "counts": asdict(total(counts)),
        "units": [asdict(item) for item in counts],
        "part": _copy(sink.store, old.parts, _ranges(old, wanted, lying), Spool(paths[0], compress)),
        "dead": _copy(sink.store, old.dead, _ranges(old, wanted, dead), Spool(paths[1], None)),
        "spread": [[n for unit, n in zip(old.units, row, strict=True) if unit.id in wanted] for row in lying],
    }


def _counts(old: Receipt, split: Split) -> list[Counts]:
    known = {unit.id: counts for unit, counts in zip(old.units, old.unit_counts, strict=True)}
    try:
        return [known[unit.id] for unit in split.units]
    except KeyError:
        raise StateError(f"`{split.carry}` of the sink does not cover what is to be carried over") from None


def _ranges(old: Receipt, wanted: set[str], lying: Sequence[Sequence[int]]) -> list[_Range]:
    """Where the wanted units lie (see `Receipt.lying`)."""
    ends = pairwise(accumulate(chain.from_iterable(lying), initial=0))
    return [
        _Range(first, end)
        for unit, (first, end) in zip(cycle(old.units), ends, strict=False)
        if unit.id in wanted and end > first
    ]


def _copy(store: Store, parts: tuple[Part, ...], ranges: list[_Range], spool: Spool) -> list[Any]:
    """Bytes and sha256 of the lines in these ranges."""
    piece = bytearray()
    try:
        for line in _chosen(read_lines(store, parts, hint=_HINT) if ranges else iter(()), ranges):
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
