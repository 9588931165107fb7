"""Shared memory between a worker and one slot: where the slot is, and what it has safely written. Runs on: container.

The slot writes, the worker reads; it survives the slot's death. Words are unsigned 64-bit.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import NamedTuple

#: First ordinal in flight, or NONE; the only word that the hot loop writes.
LOW = 0
NONE = 2**64 - 1
#: First ordinal after those in flight, where a call has many; 0: exactly one is in flight.
HIGH = 1
#: Calls made: moves when a record is tried again.
CALLS = 2
#: How many calls wait for a back-off.
WAITING = 3
#: The worker asks for a checkpoint.
FLUSH = 4
#: 1 while the slot waits for its source: nobody's call hangs.
READING = 6
#: The worker asks for an early end, at the next checkpoint.
STOP = 7
#: Which of the two banks holds the newest checkpoint.
BANK = 5
_BANKS = (8, 24)
_N_BYTES = 4096


class Checkpoint(NamedTuple):
    """What is safely in the spool files: everything before `ordinal`."""

    ordinal: int = 0
    part_bytes: int = 0
    dead_bytes: int = 0
    in_: int = 0
    out_of: int = 0
    dead: int = 0
    filtered: int = 0
    dropped: int = 0
    out: int = 0
    blank: int = 0


class Progress:
    """The words, mapped from a file that has no name."""

    def __init__(self, fd: int | None = None) -> None:
        is_given = fd is not None
        if fd is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(_N_BYTES)
                fd = os.dup(file.fileno())
            os.set_inheritable(fd, True)
        self.fd = fd
        self._map = mmap.mmap(fd, _N_BYTES)
        if is_given:  # the map is enough
            os.close(fd)
            self.fd = -1
        #: Item access is the fastest shared write that Python has (about 35 ns).
        self.words = memoryview(self._map).cast("Q")

    def reset(self, checkpoint: Checkpoint) -> None:
        """Start a split, at its beginning or where another slot died."""
        words = self.words
        words[LOW] = NONE
        words[HIGH] = words[CALLS] = words[WAITING] = words[FLUSH] = words[READING] = words[STOP] = 0
        self.save(checkpoint)

    def save(self, checkpoint: Checkpoint) -> None:
        """Publish a checkpoint: the bank that is not in use, then the switch; a kill in between costs nothing."""
        words = self.words
        bank = 1 - words[BANK]
        start = _BANKS[bank]
        for index, value in enumerate(checkpoint):
            words[start + index] = value
        words[BANK] = bank

    def load(self) -> Checkpoint:
        """The newest checkpoint."""
        start = _BANKS[self.words[BANK]]
        return Checkpoint(*self.words[start : start + len(Checkpoint._fields)])

    def in_flight(self) -> tuple[int, int] | None:
        """Ordinals [low, high) that a call may be working on; None before the first, and between two."""
        low, high = self.words[LOW], self.words[HIGH]
        if low == NONE or (self.words[READING] and not high):
            return None
        return low, max(high, low + 1)

    def release(self) -> None:
        """Unmap: whoever still has the words cannot use them any more."""
        self.words.release()
        self._map.close()

    def close(self) -> None:
        """Unmap and forget. Closes: the descriptor."""
        self.release()
        if self.fd >= 0:
            os.close(self.fd)
