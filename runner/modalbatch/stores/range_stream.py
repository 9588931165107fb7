"""A range of an object as a stream of whole requests. Runs on: both.

Each block is one request that is answered in full or not at all, so that a broken body is asked for again and never
seen in part.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

#: The first request where no end is known, and the largest of all.
_FIRST_BYTES, _MOST_BYTES = 256 << 10, 4 << 20


class RangeStream(io.RawIOBase):
    """The bytes [start, end) of what `fetch` gives. Memory: one block of at most 4 MiB."""

    def __init__(self, fetch: Callable[[int, int], bytes], start: int, end: int | None) -> None:
        """`fetch(start, n_bytes)`: so many bytes, fewer at the end of the object, none behind it."""
        super().__init__()
        self._fetch, self._end = fetch, end
        self._position = start
        self._block = memoryview(b"")
        self._size = _FIRST_BYTES if end is None else _MOST_BYTES
        self._is_over = end is not None and start >= end
        # An object that is not there is known at once, as it is of a file.
        if not self._is_over:
            self._fill()

    def readable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes from the beginning of the object."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """What is left of the block, or the next one."""
        if not self._block and not self._is_over:
            self._fill()
        n_bytes = min(len(buffer), len(self._block))
        buffer[:n_bytes] = self._block[:n_bytes]
        self._block = self._block[n_bytes:]
        self._position += n_bytes
        return n_bytes

    def readall(self) -> bytes:
        """All that is left, block by block."""
        blocks = []
        while self._block or not self._is_over:
            blocks.append(bytes(self._block))
            self._position += len(self._block)
            self._block = memoryview(b"")
            if not self._is_over:
                self._fill()
        return b"".join(blocks)

    def _fill(self) -> None:
        """Order: only with an empty block."""
        size = self._size if self._end is None else min(self._size, self._end - self._position)
        self._block = memoryview(self._fetch(self._position, size))
        behind = self._position + len(self._block)
        self._is_over = len(self._block) < size or behind == self._end
        self._size = min(2 * self._size, _MOST_BYTES)
