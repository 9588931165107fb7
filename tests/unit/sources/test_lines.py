"""The lines of a range: where it begins, what it asks of the object, and every way to read them."""

from __future__ import annotations

import io

import pytest

from modalbatch.errors import CorruptInputError
from modalbatch.sources import lines
from modalbatch.sources.lines import TAIL_BYTES, LineRange, LineStream

BOM = b"\xef\xbb\xbf"


class Object:
    """Notes which ranges are opened, and how many are still open."""

    def __init__(self, data: bytes, most: int = 1 << 20) -> None:
        self.data, self.most = data, most
        self.opened: list[tuple[int, int]] = []
        self.n_open = 0
        #: Kept, or they would close by themselves.
        self.streams: list[io.RawIOBase] = []

    def __call__(self, start: int, end: int) -> io.RawIOBase:
        owner, stream = self, io.BytesIO(self.data[start:end])
        owner.opened.append((start, end))
        owner.n_open += 1

        class Raw(io.RawIOBase):
            def readinto(self, buffer) -> int:
                found = stream.read(min(len(buffer), owner.most))
                buffer[: len(found)] = found
                return len(found)

            def close(self) -> None:
                owner.n_open -= not self.closed
                super().close()

        owner.streams.append(Raw())
        return owner.streams[-1]


def read(data: bytes, start: int, end: int, **options) -> tuple[bytes, LineRange, Object]:
    found = Object(data, **{name: options.pop(name) for name in ("most",) if name in options})
    made = LineRange(found, start, end, **options)
    assert made.readable()
    return made.read(), made, found


@pytest.mark.parametrize(
    ("start", "end", "expected", "first_byte"),
    [
        (0, 3, b"abc\n", 0),
        (0, 4, b"abc\n", 0),
        (0, 5, b"abc\ndef\n", 0),
        (1, 4, b"", 1),
        (3, 4, b"", 3),
        (4, 5, b"def\n", 4),
        (4, 9, b"def\ng", 4),
        (5, 9, b"g", 8),
        (9, 9, b"", 9),
    ],
)
def test_a_line_is_of_the_range_in_which_it_begins(start, end, expected, first_byte) -> None:
    for most in (1, 2, 1 << 20):
        found, made, opened = read(b"abc\ndef\ng", start, end, most=most)
        assert (found, made.first_byte, made.tell()) == (expected, first_byte, len(expected))
        assert opened.n_open == 0


def test_an_empty_range_opens_nothing() -> None:
    assert read(b"abc", 0, 0)[2].opened == []
    assert read(b"abc", 2, 1)[0] == b""


@pytest.mark.parametrize(("start", "expected"), [(0, b"ab\ncdefg"), (2, b"cdefg"), (3, b"cdefg"), (4, b""), (50, b"")])
@pytest.mark.parametrize("most", [1, 1 << 20])
def test_an_object_that_ends_before_the_range(start, expected, most) -> None:
    found, made, opened = read(b"ab\ncdefg", start, 100, most=most)
    assert (found, made.tell(), opened.n_open) == (expected, len(expected), 0)
    assert made.read() == b""


def test_a_range_asks_for_a_little_more_than_itself() -> None:
    assert read(b"a\nb\nc\n", 2, 4)[2].opened == [(1, 3 + TAIL_BYTES)]


def test_a_long_line_is_asked_for_in_pieces_that_grow() -> None:
    data = b"x" * (21 * TAIL_BYTES + 20) + b"\ny\n"
    found, _, opened = read(data, 0, 10)
    assert found == data[:-2]
    assert opened.opened == [
        (0, 9 + TAIL_BYTES),
        (9 + TAIL_BYTES, 9 + 5 * TAIL_BYTES),
        (9 + 5 * TAIL_BYTES, 9 + 21 * TAIL_BYTES),
        (9 + 21 * TAIL_BYTES, 9 + 85 * TAIL_BYTES),
    ]


def test_pieces_grow_up_to_a_limit(monkeypatch) -> None:
    monkeypatch.setattr(lines, "_MORE_BYTES", 2 * TAIL_BYTES)
    opened = read(b"x" * (6 * TAIL_BYTES), 0, 1)[2].opened
    assert [end - start for start, end in opened] == [TAIL_BYTES] + [2 * TAIL_BYTES] * 3


@pytest.mark.parametrize("end", [1, 3, 4, 5, 10])
def test_the_mark_at_the_beginning_is_no_part_of_the_first_line(end) -> None:
    found, made, _ = read(BOM + b"a\nb\n", 0, end)
    assert (found, made.first_byte) == (b"a\n" if end < 6 else b"a\nb\n", 3)
    assert read(BOM + b"\n" + b"b\n", 0, end)[0] == (b"\n" if end < 5 else b"\nb\n")


def test_the_head_is_shown_where_the_object_begins() -> None:
    seen: list[bytes] = []
    read(b"abcdefgh\n", 0, 3, check_head=seen.append)
    read(b"abcdefgh\n", 3, 5, check_head=seen.append)
    assert seen == [b"abcd"]


def test_closing_early_closes_the_object() -> None:
    opened = Object(b"a\nbcdef\n")
    made = LineRange(opened, 0, 8)
    assert made.read(1) == b"a"
    assert opened.n_open == 1
    made.close()
    made.close()
    assert (opened.n_open, made.closed) == (0, True)


def stream(data: bytes, *, most: int = 1 << 20, size: int = 0) -> LineStream:
    made = LineStream(Object(data, most)(0, len(data)))
    made._size = size or made._size
    assert made.readable()
    return made


@pytest.mark.parametrize("size", [4, 8, 0])
def test_every_way_to_read(size) -> None:
    data = b"one\ntwo\nthree\nfour"
    made = stream(data, size=size)
    assert (made.readline(2), made.tell()) == (b"on", 2)
    assert (made.readline(0), made.readline(), made.tell()) == (b"", b"e\n", 4)
    assert (made.read1(0), made.read1(2), made.tell()) == (b"", b"tw", 6)
    assert (next(iter(made)), made.tell()) == (b"o\n", 8)
    assert (made.read(0), made.read(3), made.tell()) == (b"", b"thr", 11)
    assert (made.read(None), made.tell()) == (b"ee\nfour", len(data))
    assert (made.read1(), made.read(), made.read(5), made.readline(), list(made)) == (b"", b"", b"", b"", [])
    assert stream(data, size=size).read() == data
    assert stream(data, size=size).read(100) == data
    assert b"".join(iter(lambda made=stream(data, size=size): made.read1(), b"")) == data


@pytest.mark.parametrize("most", [1, 3, 1 << 20])
def test_lines_longer_than_a_piece(most) -> None:
    data = b"a\n" + b"x" * 100 + b"\n" + b"b\n" + b"y" * 9000 + b"\nz" * 3
    made = stream(data, most=most, size=8)
    assert list(made) == data.splitlines(keepends=True)
    assert made.tell() == len(data)


def test_reads_are_told() -> None:
    made, told = stream(b"a\nb\n"), []
    made.on_read = told.append
    assert list(made) == [b"a\n", b"b\n"]
    assert told == [True, False] * 2


class Broken(io.RawIOBase):
    """Gives some bytes, breaks, and then says that this was all."""

    def __init__(self, data: bytes) -> None:
        self._data, self._is_broken = data, False

    def readinto(self, buffer) -> int:
        if not self._data and not self._is_broken:
            self._is_broken = True
            raise CorruptInputError("torn", where="x.gz", hint="mend it")
        n_bytes = min(len(buffer), 3, len(self._data))
        buffer[:n_bytes] = self._data[:n_bytes]
        self._data = self._data[n_bytes:]
        return n_bytes


@pytest.mark.parametrize(("data", "whole"), [(b"a\nb\nc", [b"a\n", b"b\n"]), (b"abcdefgh", []), (b"", [])])
def test_a_broken_archive_gives_its_whole_lines_first(data, whole) -> None:
    made, found = LineStream(Broken(data)), []
    made._size = 8
    with pytest.raises(CorruptInputError, match=r"^torn$") as error:
        found.extend(iter(made.readline, b""))
    with pytest.raises(CorruptInputError, match=r"^torn$"):
        made.readline()
    assert found == whole
    assert (error.value.where, error.value.hint) == ("x.gz", "mend it")


def test_closing_closes_the_raw_stream() -> None:
    opened = Object(b"a")
    made = LineStream(opened(0, 1))
    made.close()
    made.close()
    assert (opened.n_open, made.closed) == (0, True)


def test_the_last_line_end() -> None:
    for data in (b"", b"a", b"\n", b"a\nb", b"a\n" + b"x" * 5000, b"\n" + b"x" * 4096, b"x" * 4096 + b"\n"):
        assert lines._last_line_end(memoryview(data)) == data.rfind(b"\n") + 1


def test_a_line_that_is_too_long_and_breaks_off() -> None:
    made = LineStream(Broken(b"abcdefghijklmnop"), max_bytes=4)
    with pytest.raises(CorruptInputError, match=r"^torn$"):
        list(made)


def test_who_wants_every_byte_is_told_of_a_line_that_was_skipped() -> None:
    made = LineStream(Object(b"abcdefgh\nx\n", 1 << 20)(0, 11), max_bytes=4)
    with pytest.raises(io.UnsupportedOperation, match="a line of 9 bytes was skipped"):
        made.read()
