r"""The lines of a byte range. Runs on: both.

Owns the cut: a line belongs to the range in which its first byte lies, so ranges side by side hold every line once,
wherever they are cut. A line ends with `\n` and nothing else. Works on blocks: a range costs what its bytes cost.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, cast

from modalbatch.errors import CorruptInputError

#: How much is asked for beyond a range at first, to finish its last line without another request.
TAIL_BYTES = 64 << 10
#: Lines that are longer are asked for in pieces that grow up to this.
_MORE_BYTES = 4 << 20
_BLOCK_BYTES = 256 << 10
#: Enough for a byte order mark and for the magic numbers of archives.
_HEAD_BYTES = 4
_BOM = b"\xef\xbb\xbf"

#: What `LineStream` holds: it stays in the processor's cache.
_PIECE_BYTES = 256 << 10
#: How much is kept of a line that is too long.
HEAD_BYTES = 4 << 10

#: Bytes [start, end) of the object, as a raw stream; less where the object ends.
OpenRange = Callable[[int, int], BinaryIO]


class LineRange(io.RawIOBase):
    """Exactly the lines that begin in [start, end) of an object; without the byte order mark of its first line.

    The first byte is the one after the first newline at or after `start - 1`; the last is the first newline at or
    after `end - 1`. Memory: one block. Closes: the object's stream, as soon as the last line is read.
    """

    def __init__(
        self, open_range: OpenRange, start: int, end: int, *, check_head: Callable[[bytes], None] | None = None
    ) -> None:
        super().__init__()
        self._open_range = open_range
        #: Sees the first bytes of the object, when the range begins there.
        self._check_head = check_head
        #: Bytes before this offset belong to lines of the range, once the first line has begun.
        self._sure_end = max(start, end - 1)
        self._position = max(0, start - 1)
        self._stream: BinaryIO | None = None
        self._stream_end = 0
        self._reach = TAIL_BYTES
        #: Bytes that are read and not given out yet.
        self._ready = b""
        self._n_given = 0
        self._is_begun = False
        self._is_done = start >= end
        #: Offset in the object of the first byte given out; right after the first read.
        self.first_byte = start

    def readable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes given out so far."""
        return self._n_given

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with the next bytes of the range's lines."""
        if not self._is_begun:
            self._is_begun = True
            if not self._is_done:
                self._begin()
        view = memoryview(buffer)
        if self._ready:
            n_bytes = min(len(view), len(self._ready))
            view[:n_bytes] = self._ready[:n_bytes]
            self._ready = self._ready[n_bytes:]
        elif self._is_done:
            n_bytes = 0
        elif self._position < self._sure_end:
            n_bytes = self._fill(view[: self._sure_end - self._position])
            if not n_bytes:
                self._finish()
        else:
            n_bytes = self._fill(view[:_BLOCK_BYTES])
            at = bytes(view[:n_bytes]).find(b"\n")
            if at >= 0:
                n_bytes = at + 1
            if at >= 0 or not n_bytes:
                self._finish()
        self._n_given += n_bytes
        return n_bytes

    def close(self) -> None:
        """Close the object's stream."""
        if not self.closed:
            super().close()
            self._finish()

    def _begin(self) -> None:
        """Go to the first line that begins in the range."""
        if self._position == self.first_byte == 0:
            self._begin_object()
            return
        while self._position < self._sure_end:
            block = self._take(min(_BLOCK_BYTES, self._sure_end - self._position))
            at = block.find(b"\n")
            if at >= 0:
                self._ready = block[at + 1 :]
                self.first_byte = self._position - len(self._ready)
                return
            if not block:
                break
        # No line begins here: the one that runs through the range belongs to an earlier range.
        self._finish()

    def _begin_object(self) -> None:
        head = self._take(_HEAD_BYTES)
        if self._check_head:
            self._check_head(head)
        at = head.find(b"\n", self._sure_end)
        if at >= 0 or len(head) < _HEAD_BYTES:
            self._finish()
        self._ready = head[: at + 1] if at >= 0 else head
        if head.startswith(_BOM):
            self.first_byte = len(_BOM)
            self._ready = self._ready[len(_BOM) :]

    def _take(self, n_bytes: int) -> bytes:
        """The next bytes; fewer only at the end of the object."""
        data = bytearray(n_bytes)
        n_got = 0
        while n_got < n_bytes and (n_more := self._fill(memoryview(data)[n_got:])):
            n_got += n_more
        return bytes(data[:n_got])

    def _fill(self, view: memoryview) -> int:
        """Read from the object, opening the next piece where one ends."""
        if self._stream is None or self._position >= self._stream_end:
            self._close_stream()
            self._stream_end = max(self._position, self._sure_end) + self._reach
            self._reach = min(self._reach * 4, _MORE_BYTES)
            self._stream = self._open_range(self._position, self._stream_end)
        n_bytes: int = self._stream.readinto(view)  # type: ignore[attr-defined]
        self._position += n_bytes
        return n_bytes

    def _finish(self) -> None:
        self._is_done = True
        self._close_stream()

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


@dataclass(frozen=True, slots=True)
class LongLine:
    """What is kept of a line that is longer than a record may be; its length is that of the line."""

    #: The first bytes.
    head: bytes
    #: With the line's end.
    n_bytes: int

    def __len__(self) -> int:
        return self.n_bytes


class LineStream(io.BufferedIOBase):
    """A raw stream's lines, as cheap as those of a plain local file.

    Iterating goes through pieces of whole lines in one `BytesIO` that is filled again and again: a `BufferedReader`
    asks any raw stream but a `FileIO` before each line whether it is closed, which costs half as much as the line.
    `tell()` is exact all the while. A line of more than `max_bytes` without its end comes as a `LongLine`, to whoever
    iterates. A broken archive raises only behind the last line that is whole. Memory: one piece, or the longest line
    that may be. Closes: the raw stream.
    """

    def __init__(self, raw: io.RawIOBase, max_bytes: int = sys.maxsize >> 1) -> None:
        super().__init__()
        self.raw: Any = raw
        self._piece = io.BytesIO()
        #: The largest piece: where it holds no line end, its line is too long, wherever it was cut.
        self._most = max_bytes + 1
        self._size = min(_PIECE_BYTES, self._most)
        #: Where the piece begins in the stream, and its length.
        self._start = self._length = 0
        #: The beginning of the line that the next piece begins with.
        self._rest = b""
        #: What stands in the place of an empty piece.
        self._long_line: LongLine | None = None
        self._is_at_end = False
        self._broken: CorruptInputError | None = None
        #: Hears when a read of the raw stream begins (True) and ends (False).
        self.on_read: Callable[[bool], None] | None = None

    def __iter__(self) -> Iterator[bytes]:
        """The lines from here on; several iterators share one position."""
        return chain.from_iterable(self._pieces())

    def _pieces(self) -> Iterator[Iterable[bytes]]:
        yield self._piece
        while self._advance():
            yield (cast("bytes", self._long_line),) if self._long_line else self._piece

    def _advance(self) -> bool:
        """Fill the piece with the next whole lines; False at the end."""
        if self._broken is not None:
            raise self._broken
        piece, n_bytes, cut = self._piece, len(self._rest), 0
        self._start += self._length
        self._length, self._long_line = 0, None
        piece.seek(0)
        piece.write(self._rest)
        while not cut and not self._is_at_end:
            if n_bytes == self._most:
                return self._skip_line()
            piece.seek(self._size - 1)
            piece.write(b"\0")
            with piece.getbuffer() as view:
                # There is room: a rest is a part of a piece, and a piece without a line end was doubled.
                while True:
                    n_more = self._read_more(view[n_bytes:])
                    n_bytes += n_more
                    self._is_at_end = not n_more
                    if self._is_at_end or n_bytes * 2 >= self._size:
                        break
                cut = n_bytes if self._is_at_end and self._broken is None else _last_line_end(view[:n_bytes])
                self._rest = bytes(view[cut:n_bytes]) if cut else b""
            if not cut:
                self._size = min(self._size * 2, self._most)
        piece.truncate(cut)
        piece.seek(0)
        self._length = cut
        if self._broken is not None and not cut:
            raise self._broken
        return cut > 0

    def _skip_line(self) -> bool:
        """The full piece is the beginning of a line that is too long: go to its end, keeping nothing more of it."""
        piece = self._piece
        piece.seek(0)
        head, n_bytes, at = piece.read(HEAD_BYTES), self._most, -1
        self._size = min(_PIECE_BYTES, self._most)
        piece.truncate(self._size)
        with piece.getbuffer() as view:
            while at < 0 and not self._is_at_end:
                n_more = self._read_more(view)
                self._is_at_end = not n_more
                at = bytes(view[:n_more]).find(b"\n")
                n_bytes += n_more if at < 0 else at + 1
            self._rest = bytes(view[at + 1 : n_more]) if at >= 0 else b""
        piece.seek(0)
        piece.truncate()
        if self._broken is not None:
            raise self._broken
        self._start += n_bytes
        self._long_line = LongLine(head, n_bytes)
        return True

    def _read_more(self, view: memoryview) -> int:
        """Bytes from the raw stream; one that is broken gives first what is whole before the break."""
        on_read = self.on_read
        try:
            if on_read is None:
                return int(self.raw.readinto(view))
            on_read(True)
            n_bytes = int(self.raw.readinto(view))
            on_read(False)
            return n_bytes
        except CorruptInputError as error:
            # Anew: the frames of this one hold views of the piece.
            self._broken = CorruptInputError(error.message, where=error.where, hint=error.hint)
            return 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes from the first line to the one that comes next."""
        return self._start + self._piece.tell()

    def readline(self, size: int | None = -1) -> bytes:
        """The next line, or its next `size` bytes; empty at the end."""
        line = self._piece.readline(size)
        if not line and size != 0 and self._has_more():
            line = self._piece.readline(size)
        return line

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, or all."""
        wanted = sys.maxsize if size is None or size < 0 else size
        found = [self._piece.read(wanted)]
        wanted -= len(found[0])
        while wanted and self._has_more():
            found.append(self._piece.read(wanted))
            wanted -= len(found[-1])
        return b"".join(found)

    def read1(self, size: int = -1) -> bytes:
        """What is at hand, at most `size` bytes."""
        found = self._piece.read(size)
        return found if found or size == 0 or not self._has_more() else self._piece.read(size)

    def _has_more(self) -> bool:
        """`_advance`, for those who want every byte."""
        has_more = self._advance()
        if self._long_line:
            raise io.UnsupportedOperation(f"a line of {len(self._long_line)} bytes was skipped")
        return has_more

    def close(self) -> None:
        """Close the raw stream."""
        if not self.closed:
            super().close()
            self.raw.close()


def _last_line_end(view: memoryview) -> int:
    """The offset behind the last newline; 0 where there is none."""
    end = len(view)
    while end:
        start = max(0, end - 4096)
        at = bytes(view[start:end]).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
