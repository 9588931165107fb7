"""What a generator has yielded and its caller has not confirmed yet. Runs on: laptop.

Owns the numbers of chunks: which are new, which may be forgotten, how many bytes wait. Pure of time, processes and
network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from modalbatch.engines.local.wire import Message

#: Bytes that may wait for a caller who reads slowly; then the generator waits too.
MAX_WAITING_BYTES = 32 << 20
#: What a chunk costs besides its data.
_CHUNK_BYTES = 512


@dataclass(slots=True, eq=False)
class DataStream:
    """Chunks of one call, numbered from 1 by the container."""

    #: The number of the last chunk that came.
    n_put: int = 0
    #: The number of the last chunk that the caller has.
    n_confirmed: int = 0
    _chunks: dict[int, Message] = field(default_factory=dict)
    _waiting_bytes: int = 0

    @property
    def is_full(self) -> bool:
        """Whether the generator should wait for its caller."""
        return self._waiting_bytes > MAX_WAITING_BYTES

    @property
    def is_confirmed(self) -> bool:
        """Whether the caller has everything."""
        return self.n_confirmed >= self.n_put

    def put(self, chunks: Iterable[Message]) -> None:
        """Takes chunks; a generator that starts again after a crash repeats those which are here already."""
        for chunk in chunks:
            if chunk.index > self.n_put:
                self.n_put = chunk.index
                self._chunks[chunk.index] = chunk
                self._waiting_bytes += _size_bytes(chunk)

    def after(self, number: int) -> Message | None:
        """The chunk that follows a number, if it is here."""
        return self._chunks.get(number + 1)

    def confirm(self, number: int) -> list[Message]:
        """Forgets the chunks up to a number, and returns them."""
        forgotten = [self._chunks.pop(index) for index in range(self.n_confirmed + 1, min(number, self.n_put) + 1)]
        self.n_confirmed += len(forgotten)
        self._waiting_bytes -= sum(map(_size_bytes, forgotten))
        return forgotten


def _size_bytes(chunk: Message) -> int:
    return len(chunk.data) + _CHUNK_BYTES
