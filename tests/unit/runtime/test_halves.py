"""The arithmetic of dividing a split: what is done, what is left, and halves of it."""

from __future__ import annotations

import gzip
import hashlib
import io
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalbatch.job import Source
from modalbatch.records import ALL_LINES, Counts, Split, Unit
from modalbatch.runtime.divide import condemned, cut_units, divide_at, halves
from modalbatch.runtime.handler import Failure
from modalbatch.runtime.progress import Checkpoint
from modalbatch.runtime.supervise import Suspects
from modalbatch.runtime.unit_log import UnitLog, unit_log_path
from modalbatch.sources.files import FileSource

POISON = Failure("crash", {"type": "crash"}, 2)


def unit(name: str) -> Unit:
    return Unit(name, "1", "", 0, 100, False)


def split_of(*units: Unit, suspects: Suspects | None = None) -> Split:
    known = (suspects or Suspects()).to_json()
    return Split(units=units, generation=3, fingerprint="f" * 64, run_id="r", roots={"": "/x/"}, suspects=known)


A, B, C = unit("a"), unit("b"), unit("c")
PIECE = A.piece(4, 9)


@pytest.mark.parametrize(
    ("units", "n_done", "n_lines", "done", "rest"),
    [
        ((A,), 0, 0, (), (A,)),
        ((A,), 1, 0, (A,), ()),
        ((A,), 0, 3, (A.piece(0, 3),), (A.piece(3, ALL_LINES),)),
        ((A, B, C), 1, 0, (A,), (B, C)),
        ((A, B, C), 1, 2, (A, B.piece(0, 2)), (B.piece(2, ALL_LINES), C)),
        ((PIECE, B), 0, 2, (A.piece(4, 6),), (A.piece(6, 9), B)),
        ((PIECE, B), 0, 5, (PIECE,), (B,)),
        ((PIECE,), 0, 5, (PIECE,), ()),
        # Beyond the last unit there is nothing to leave.
        ((A,), 1, 7, (A,), ()),
    ],
)
def test_what_is_done_and_what_is_left(units, n_done, n_lines, done, rest) -> None:
    assert cut_units(units, n_done, n_lines) == (done, rest)


def at_checkpoint(folder: Path, ends: list[tuple[int, Counts]], checkpoint: Checkpoint) -> tuple[Path, Path]:
    """Spool files as a slot leaves them: of each unit that is finished the ordinal behind it and the counts so far."""
    paths = folder / "x.part", folder / "x.dead"
    log = UnitLog(unit_log_path(paths[0]), 0)
    for index, (ordinal, counts) in enumerate(ends):
        log.finish(index, ordinal, asdict(counts))
    paths[0].write_bytes(b"p" * 50)
    paths[1].write_bytes(b"d" * 9)
    return paths


def checkpoint_of(ordinal: int, part: int, dead: int, counts: Counts) -> Checkpoint:
    return Checkpoint(ordinal, part, dead, *asdict(counts).values())


def test_a_split_that_is_left_in_the_middle(tmp_path) -> None:
    first = Counts(in_=10, out_of=9, dead=1, out=9)
    so_far = Counts(in_=14, out_of=11, dead=2, filtered=1, out=12, blank=1)
    checkpoint = checkpoint_of(15, 40, 7, so_far)
    paths = at_checkpoint(tmp_path, [(10, first)], checkpoint)
    suspects = Suspects(
        cuts={(0, 3): 1, (12, 20): 4, (30, 40): 2},
        deaths={2: 1, 15: 1, 16: 1},
        poison={1: POISON, 17: POISON},
        alone={14, 15},
        ooms={(5, 15): 2, (14, 18): 1},
        entries=2,
    )
    divided = divide_at(split_of(A, B, C, suspects=suspects), checkpoint, paths)
    assert divided is not None
    assert divided.done.units == (A, B.piece(0, 5))
    assert divided.done.suspects == {}
    assert divided.rest.units == (B.piece(5, ALL_LINES), C)
    assert Suspects.from_json(divided.rest.suspects) == Suspects(
        cuts={(0, 5): 4, (15, 25): 2},
        deaths={0: 1, 1: 1},
        poison={2: POISON},
        alone={0},
        ooms={(0, 3): 1},
        entries=2,
    )
    second = Counts(in_=4, out_of=2, dead=1, filtered=1, out=3, blank=1)
    assert divided.answer == {
        "counts": asdict(so_far),
        "units": [asdict(first), asdict(second)],
        "part": [40, hashlib.sha256(b"p" * 40).hexdigest()],
        "dead": [7, hashlib.sha256(b"d" * 7).hexdigest()],
    }
    assert (paths[0].read_bytes(), paths[1].read_bytes()) == (b"p" * 40, b"d" * 7)
    assert divided.rest.generation == divided.done.generation == 3


def test_a_split_that_is_left_between_two_inputs(tmp_path) -> None:
    counts = Counts(in_=10, filtered=10)
    checkpoint = checkpoint_of(10, 0, 0, counts)
    paths = at_checkpoint(tmp_path, [(10, counts)], checkpoint)
    divided = divide_at(split_of(A, B), checkpoint, paths)
    assert divided is not None
    assert (divided.done.units, divided.rest.units) == ((A,), (B,))
    assert divided.answer["units"] == [asdict(counts)]
    assert (divided.answer["part"], divided.answer["dead"]) == ([0, ""], [0, ""])


@pytest.mark.parametrize("units", [(A,), (A, B)])
def test_a_split_that_was_not_begun_cannot_be_left(tmp_path, units) -> None:
    checkpoint = Checkpoint()
    assert divide_at(split_of(*units), checkpoint, at_checkpoint(tmp_path, [], checkpoint)) is None


def test_a_split_that_is_done_cannot_be_left(tmp_path) -> None:
    counts = Counts(in_=3, filtered=3)
    checkpoint = checkpoint_of(3, 0, 0, counts)
    assert divide_at(split_of(A), checkpoint, at_checkpoint(tmp_path, [(3, counts)], checkpoint)) is None


def on_disk(folder: Path, **files: bytes) -> tuple[FileSource, Split]:
    (folder / "data").mkdir()
    for name, data in files.items():
        (folder / "data" / name.replace("_", ".")).write_bytes(data)
    source = FileSource(Source(uris=("data/",)), {"": f"{folder}/"})
    return source, split_of(*source.units())


@pytest.mark.parametrize("n_lines", [0, 1, 2, 3, 17])
def test_halves_of_halves_are_single_lines_side_by_side(tmp_path, n_lines) -> None:
    source, split = on_disk(tmp_path, a_jsonl=b"{}\n" * n_lines)
    done, todo = [], [split]
    while todo:
        parts = halves(source, todo.pop())
        (todo if len(parts) > 1 else done).extend(parts)
    pieces = sorted((unit.low, unit.high) for part in done for unit in part.units)
    assert [high for _, high in pieces[:-1]] == [low for low, _ in pieces[1:]]
    assert (pieces[0][0], pieces[-1][1]) == (0, ALL_LINES)
    assert len(pieces) == max(1, n_lines)


def test_a_piece_has_halves_of_its_own_lines(tmp_path) -> None:
    source, split = on_disk(tmp_path, a_jsonl=b"{}\n" * 20)
    (whole,) = split.units
    suspects = Suspects(poison={1: POISON, 4: POISON}, entries=1)
    first, second = halves(source, split_of(whole.piece(3, 10), suspects=suspects))
    assert (first.units, second.units) == ((whole.piece(3, 6),), (whole.piece(6, 10),))
    assert Suspects.from_json(first.suspects) == suspects
    assert Suspects.from_json(second.suspects) == Suspects(poison={1: POISON}, entries=1)
    first, second = halves(source, split_of(whole.piece(14, ALL_LINES)))
    assert (first.units, second.units) == ((whole.piece(14, 17),), (whole.piece(17, ALL_LINES),))
    single = split_of(whole.piece(19, ALL_LINES))
    assert halves(source, single) == [single]


def test_a_pack_is_divided_between_its_inputs_first(tmp_path) -> None:
    source, split = on_disk(tmp_path, a_jsonl=b"{}\n", b_jsonl=b"{}\n{}\n", c_jsonl=b"")
    suspects = Suspects(cuts={(0, 2): 1}, deaths={0: 1}, entries=2)
    first, second = halves(source, split_of(*split.units, suspects=suspects))
    assert ([item.uri for item in first.units], [item.uri for item in second.units]) == (
        ["data/a.jsonl"],
        ["data/b.jsonl", "data/c.jsonl"],
    )
    assert not any(item.is_piece for item in first.units + second.units)
    assert Suspects.from_json(first.suspects) == suspects
    assert Suspects.from_json(second.suspects) == Suspects(entries=2)


def test_the_break_of_an_archive_is_its_last_line(tmp_path) -> None:
    rows = b"".join(b'{"n": "%s"}\n' % hashlib.sha512(b"%d" % n).hexdigest().encode() for n in range(4000))
    broken = gzip.compress(rows)[:-2000]
    n_whole = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(broken)) as stream:
            for _ in stream:
                n_whole += 1
    except EOFError:
        pass
    source, split = on_disk(tmp_path, a_jsonl_gz=broken)
    first, second = halves(source, split)
    assert abs(first.units[0].high - n_whole // 2) <= 600
    assert second.units[0].high == ALL_LINES


@pytest.mark.parametrize("n_units", [2, 3, 4, 9])
def test_half_of_the_units_and_none_is_left_out(n_units: int) -> None:
    units = tuple(unit(f"{n}") for n in range(n_units))
    first, second = halves(FileSource(Source(uris=("x",)), {}), split_of(*units))
    assert (len(first.units), first.units + second.units) == (n_units // 2, units)


def test_what_is_lost_of_a_broken_archive_counts_as_a_line(tmp_path: Path) -> None:
    broken = gzip.compress(b'{"n": 1}\n') + gzip.compress(b'{"n": 2}\n' * 9)[:14]
    source, split = on_disk(tmp_path, a_jsonl_gz=broken)
    first, second = halves(source, split)
    assert [(item.units[0].low, item.units[0].high) for item in (first, second)] == [(0, 1), (1, ALL_LINES)]


def test_a_line_that_is_condemned_is_the_only_one_of_its_split() -> None:
    known = Suspects.from_json(condemned(split_of(PIECE), 3).suspects)
    how = "its container ended each of the 3 times that it was processed"
    assert known == Suspects(poison={0: Failure("crash", {"type": "crash", "message": how, "traceback": ""}, 3)})


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 25))
def test_nothing_is_left_out_wherever_a_split_is_cut(sizes: list[int], ordinal: int) -> None:
    units = tuple(unit(name).piece(10, 10 + size) for name, size in zip("abcd", sizes, strict=False))
    n_done, left = 0, min(ordinal, sum(sizes))
    while n_done < len(sizes) and left >= sizes[n_done]:
        left -= sizes[n_done]
        n_done += 1
    done, rest = cut_units(units, n_done, left)
    lines = [(item.uri, line) for item in (*done, *rest) for line in range(item.low, item.high)]
    assert lines == [(item.uri, line) for item in units for line in range(item.low, item.high)]
    assert sum(item.high - item.low for item in done) == min(ordinal, sum(sizes))
