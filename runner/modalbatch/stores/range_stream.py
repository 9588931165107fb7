"""A range of an object as a stream of whole requests. Runs on: both.

Each block is one request. What is shorter than the object says is asked for again and never seen in part.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

from modalbatch.errors import UnavailableError

#: The first request where no end is known, and the largest of all.
_FIRST_BYTES, _MOST_BYTES = 256 << 10, 4 << 20
_N_TRIES = 3


class Block(NamedTuple):
    """The answer to one request."""

    data: bytes
    #: Of the whole object; None behind its end.
    size_bytes: int | None


class RangeStream(io.RawIOBase):
    """The bytes [start, end) of what `fetch` gives. Memory: one block of at most 4 MiB."""

    def __init__(self, uri: str, fetch: Callable[[int, int], Block], start: int, end: int | None) -> None:
        """`fetch(start, n_bytes)`: so many bytes of the object `uri`, fewer at its end, none behind it."""
        super().__init__()
        self._uri, self._fetch, self._end = uri, fetch, end
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
        block, behind = self._whole(size), self._position + size
        self._block = memoryview(block.data)
        self._is_over = block.size_bytes is None or behind >= block.size_bytes or behind == self._end
        self._size = min(2 * self._size, _MOST_BYTES)

    def _whole(self, n_bytes: int) -> Block:
        for _ in range(_N_TRIES):
            block = self._fetch(self._position, n_bytes)
            n_left = 0 if block.size_bytes is None else max(0, block.size_bytes - self._position)
            if len(block.data) == min(n_bytes, n_left):
                return block
        raise UnavailableError(
            f"cannot read `{self._uri}`: it is cut short on the way", hint="check the network, then run `apply` again"
        )
