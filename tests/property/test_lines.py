"""Cut anywhere: the lines of all units are the lines of the file, each once, in order."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from modalbatch import job
from modalbatch.sources.files import FileSource
from modalbatch.sources.lines import LineRange, LineStream, LongLine
from property.lines import contents, true_lines


def open_bytes(data: bytes):
    return lambda start, end: io.BytesIO(data[start:end])


@given(data=contents(), cuts=st.lists(st.integers(0, 400), max_size=8))
@example(data=b"\xef\xbb\xbf", cuts=[1, 2])
@example(data=b"\xef\xbb\xbf\n", cuts=[1, 2, 3])
@example(data=b"\n", cuts=[])
@example(data=b"a\nb", cuts=[1, 2])
def test_ranges_side_by_side_hold_every_line_once(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    found = []
    for start, end in itertools.pairwise(edges):
        with LineStream(LineRange(open_bytes(data), start, end)) as stream:
            found += list(stream)
    assert found == true_lines(data)


@given(data=contents(), size=st.integers(1, 60))
def test_units_of_a_file_hold_every_line_once(tmp_path_factory, data: bytes, size: int) -> None:
    folder = tmp_path_factory.mktemp("lines")
    (folder / "x.jsonl").write_bytes(data)
    source = FileSource(job.Source(uris=("x.jsonl",), split=job.Split(bytes=size)), {"": f"{folder}/"})
    units = list(source.units())
    assert [(unit.start, unit.end) for unit in units] == (
        [(start, min(start + size, len(data))) for start in range(0, len(data), size)] or [(0, 0)]
    )
    found = []
    for unit in units:
        with source.open(unit) as stream:
            found += list(stream)
    assert found == true_lines(data)


@given(
    data=contents(max_pieces=200),
    sizes=st.lists(st.integers(1, 40), min_size=1),
    kinds=st.lists(st.sampled_from("lrpi"), min_size=1),
)
def test_a_stream_can_be_read_in_every_way_at_once(data: bytes, sizes: list[int], kinds: list[str]) -> None:
    raw = _Trickle(data, sizes)
    stream = LineStream(raw)
    stream._size = 8  # the smallest pieces find the most
    found = b""
    for kind in itertools.islice(itertools.cycle(kinds), 2000):
        before = len(found)
        if kind == "l":
            found += stream.readline()
        elif kind == "r":
            found += stream.read(7)
        elif kind == "p":
            found += stream.readline(3)
        else:
            found += b"".join(itertools.islice(stream, 2))
        assert stream.tell() == len(found)
        if len(found) == before:
            break
    assert found == data
    assert stream.read() == b""


@given(
    data=contents(max_pieces=60),
    most=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 40), min_size=1),
    cuts=st.lists(st.integers(0, 400), max_size=4),
)
@example(data=b"123\n", most=3, sizes=[9], cuts=[])
@example(data=b"1234\n", most=3, sizes=[4], cuts=[])
@example(data=b"1234", most=3, sizes=[1], cuts=[2])
@example(data=b"1\n1234\n\n", most=3, sizes=[5], cuts=[3])
def test_lines_over_a_limit_are_measured_and_the_others_are_as_they_were(data, most, sizes, cuts) -> None:
    """bad input 85: which lines are too long hangs on nothing but their length."""
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    found, at = [], []
    for start, end in itertools.pairwise(edges):
        raw = LineRange(lambda low, high: _Trickle(data[low:high], sizes), start, end)
        with LineStream(raw, most) as stream:
            for line in stream:
                found.append((line.head, len(line)) if isinstance(line, LongLine) else line)
                at.append(raw.first_byte + stream.tell() - len(line))
    lines = true_lines(data)
    assert found == [
        line if len(line.removesuffix(b"\n")) <= most else (line[: min(4096, most + 1)], len(line)) for line in lines
    ]
    mark = len(data) - sum(map(len, lines))
    assert at == list(itertools.accumulate(map(len, lines[:-1]), initial=mark)) * bool(lines)


class _Trickle(io.RawIOBase):
    """A raw stream that gives a few bytes at a time, as a network does."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._stream = io.BytesIO(data)
        self._sizes = itertools.cycle(sizes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._stream.read(min(next(self._sizes), len(buffer)))
        buffer[: len(data)] = data
        return len(data)


def test_lines_longer_than_every_buffer(tmp_path: Path) -> None:
    data = b"a\n" + b"x" * 3_000_000 + b"\n" + b"b\n" + b"y" * 700_000
    (tmp_path / "x.jsonl").write_bytes(data)
    for size in (1_000_000, 65_537, 10**9):
        source = FileSource(job.Source(uris=("x.jsonl",), split=job.Split(bytes=size)), {"": f"{tmp_path}/"})
        found = []
        for unit in source.units():
            with source.open(unit) as stream:
                found += list(stream)
        assert found == true_lines(data)
