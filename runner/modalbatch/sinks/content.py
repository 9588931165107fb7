"""The lines of parts and dead letters, checked against their receipt while they are read. Runs on: both.

Memory: one block, or the longest line. Refuses an object that is not what its receipt says.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO, cast

from modalbatch.errors import NotFoundError, StateError, UnavailableError
from modalbatch.formats.compression import infer_compression, open_decompressor
from modalbatch.records import Part
from modalbatch.stores import Store

_PIECE_BYTES = 1 << 20


def read_lines(store: Store, parts: Iterable[Part], *, hint: str) -> Iterator[bytes]:
    """Every line of the parts; the caller has seen the last one when a part proves to be altered.

    `hint`: what to do about a part that is not there or not what it was. Raises:
        UnavailableError: a part is gone: another run has published meanwhile, or somebody deleted it.
        StateError: a part is not what its receipt says.
    """
    for part in parts:
        try:
            raw = store.open(part.name)
        except NotFoundError:
            raise UnavailableError(f"`{part.name}` of the sink is gone", hint=hint) from None
        n_lines = 0
        with raw:
            hashed = Hashed(raw)
            plain = open_decompressor(cast("BinaryIO", hashed), infer_compression(part.name), part.name)
            for line in io.BufferedReader(plain, _PIECE_BYTES):
                n_lines += 1
                yield line
            for _ in iter(partial(hashed.read, _PIECE_BYTES), b""):  # what the decompressor left
                pass
        if hashed.sha.hexdigest() != part.sha256 or n_lines != part.records:
            raise StateError(f"`{part.name}` of the sink was altered", hint=hint)


class Hashed(io.RawIOBase):
    """A raw stream that hashes what passes."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__()
        self._raw = raw
        self.sha = hashlib.sha256()

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read, and hash what was read."""
        n_bytes = int(self._raw.readinto(buffer))  # type: ignore[attr-defined]
        self.sha.update(memoryview(buffer)[:n_bytes])
        return n_bytes
