"""Dividing a split by the ordinals of its lines. Runs on: container.

Owns the one mechanism behind splits that outgrow their time, that others wait for, and that are suspected of killing
their containers: what is done is committed under units of its own, the rest goes back as splits of pieces. The receipts
of all pieces together stand for the unit (`driver.cover`). Decides nothing and publishes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from modalbatch.errors import CorruptInputError
from modalbatch.records import ALL_LINES, Counts, Split, Unit, total
from modalbatch.runtime.handler import Failure
from modalbatch.runtime.progress import Checkpoint
from modalbatch.runtime.supervise import Suspects
from modalbatch.runtime.unit_log import UnitLog, unit_log_path
from modalbatch.sources import Source

Json = dict[str, Any]


class Divided(NamedTuple):
    """A split that was left at a checkpoint."""

    #: The units, and the piece of one, that are done.
    done: Split
    #: What a slot would have answered for them.
    answer: Json
    rest: Split


def divide_at(split: Split, checkpoint: Checkpoint, paths: tuple[Path, Path]) -> Divided | None:
    """What of a split is done at a slot's checkpoint, and the rest; None where either of them is nothing.

    The spool files at `paths` are cut back to the checkpoint. Order: the slot works on the split no more.
    """
    log = UnitLog(unit_log_path(paths[0]), checkpoint.ordinal)
    counts = [Counts(**item) for item in log.each()]
    n_done = len(counts)
    begun_at = log.ends[-1] if log.ends else 0
    done, rest = cut_units(split.units, n_done, checkpoint.ordinal - begun_at)
    if not done or not rest:
        return None
    if len(done) > n_done:
        so_far = Counts(**dict(zip(Counts.__slots__, checkpoint[3:], strict=True)))
        counts.append(so_far - total(counts))
    answer = {
        "counts": asdict(total(counts)),
        "units": [asdict(item) for item in counts],
        "part": _cut_back(paths[0], checkpoint.part_bytes),
        "dead": _cut_back(paths[1], checkpoint.dead_bytes),
    }
    suspects = Suspects.from_json(split.suspects).moved(checkpoint.ordinal).to_json()
    return Divided(replace(split, units=done, suspects={}), answer, replace(split, units=rest, suspects=suspects))


def cut_units(units: Sequence[Unit], n_done: int, n_lines: int) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
    """What is done, and what is left, when so many units are done and so many lines of the next one."""
    done, rest = tuple(units[:n_done]), tuple(units[n_done:])
    if not n_lines or not rest:
        return done, rest
    unit, at = rest[0], rest[0].low + n_lines
    left = (unit.piece(at, unit.high),) if at < unit.high else ()
    return (*done, unit.piece(unit.low, at)), left + rest[1:]


def _cut_back(path: Path, n_bytes: int) -> list[Any]:
    """Bytes and sha256 of a spool file's beginning, which is all that is left of it."""
    if not n_bytes:
        return [0, ""]
    os.truncate(path, n_bytes)
    with path.open("rb") as file:
        sha = hashlib.sha256()
        while block := file.read(1 << 20):
            sha.update(block)
    return [n_bytes, sha.hexdigest()]


def halves(source: Source, split: Split) -> list[Split]:
    """The split in two: by its units, or by the lines of the only one, which are counted. Itself where it has one line.

    Memory: one block. Raises what reading raises, but for input that breaks: that is its last line.
    """
    units, suspects = split.units, Suspects.from_json(split.suspects)
    if len(units) > 1:
        middle = len(units) // 2
        # How many lines the first half has, nobody knows: the second begins its search anew.
        rest = Suspects(entries=suspects.entries)
        return [
            replace(split, units=units[:middle]),
            replace(split, units=units[middle:], suspects=rest.to_json()),
        ]
    unit = units[0]
    n_lines = _count_lines(source, unit)
    if n_lines < 2:
        return [split]
    middle = n_lines // 2
    at = unit.low + middle
    return [
        replace(split, units=(unit.piece(unit.low, at),)),
        replace(split, units=(unit.piece(at, unit.high),), suspects=suspects.moved(middle).to_json()),
    ]


def _count_lines(source: Source, unit: Unit) -> int:
    n_lines = 0
    try:
        with source.open(unit) as stream:
            for _ in islice(stream, unit.low, None if unit.high == ALL_LINES else unit.high):
                n_lines += 1
    except CorruptInputError:
        n_lines += 1
    return n_lines


def condemned(split: Split, n_attempts: int) -> Split:
    """A split of one line that ended its container in each of so many attempts: the line is poison."""
    how = f"its container ended each of the {n_attempts} times that it was processed"
    failure = Failure("crash", {"type": "crash", "message": how, "traceback": ""}, n_attempts)
    return replace(split, suspects=Suspects(poison={0: failure}).to_json())
