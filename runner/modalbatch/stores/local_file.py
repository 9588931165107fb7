"""An open local file that must stay what it was, and what the errors of a disk mean. Runs on: both."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from modalbatch.errors import InputChangedError, ModalbatchError, NotFoundError, UnavailableError

_BLOCK_BYTES = 4 << 20


class PinnedFile(FileIO):
    """A regular file that must stay what it was: its size and mtime are compared when reading ends."""

    def __init__(self, descriptor: int, path: Path, end: int | None, check: Callable[[os.stat_result], None]) -> None:
        super().__init__(descriptor, "rb")
        self._path, self._end, self._check = path, end, check

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer up to the end of the range."""
        if self._end is not None:
            buffer = memoryview(buffer)[: max(0, self._end - self.tell())]
        n_bytes = 0
        if len(buffer):
            try:
                n_bytes = super().readinto(buffer)
            except OSError as error:
                raise unavailable(error, "read", self._path) from error
        if not n_bytes:
            self._check(os.fstat(self.fileno()))
        return n_bytes

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, or all that are left."""
        if size is None or size < 0:
            return self.readall()
        data = bytearray(size)
        n_bytes = self.readinto(memoryview(data))
        return bytes(data[:n_bytes])

    def readall(self) -> bytes:
        """All bytes that are left of the range."""
        # A byte more than there should be; a buffer of a whole block costs more than reading a small file.
        left = os.fstat(self.fileno()).st_size - self.tell() + 1
        size, blocks = max(1, min(_BLOCK_BYTES, left)), []
        while block := self.read(size):
            blocks.append(block)
        return b"".join(blocks)

    def close(self) -> None:
        """Compare the pin once more: a reader may have stopped before the end."""
        if not self.closed:
            try:
                self._check(os.fstat(self.fileno()))
            finally:
                super().close()


def check_pin(path: Path, pin_of: Callable[[os.stat_result], str], pin: str, status: os.stat_result) -> None:
    """Refuse what is not a regular file, or not the pinned one."""
    if not stat.S_ISREG(status.st_mode):
        raise NotFoundError(f"`{path}` is not a regular file")
    if pin and pin != pin_of(status):
        raise InputChangedError(f"`{path}` changed after it was listed", hint="run `apply` again")


def unavailable(error: OSError, verb: str, path: str | Path) -> ModalbatchError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UnavailableError(
            f"disk full: cannot {verb} `{path}` ({error.strerror})", hint="free some space, then run `apply` again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UnavailableError(f"cannot {verb} `{path}`: {error.strerror}", hint="check the permissions of the folder")
    return UnavailableError(f"cannot {verb} `{path}`: {error.strerror or error}")
