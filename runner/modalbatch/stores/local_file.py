"""An open local file that must stay what it was, and what the errors of a disk mean. Runs on: both."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

from modalbatch.errors import InputChangedError, ModalbatchError, NotFoundError, UnavailableError

_BLOCK_BYTES = 4 << 20


class PinnedFile(io.RawIOBase):
    """A regular file that must stay what it was: its size and mtime are compared when reading ends.

    It reads at places of its own, so that a fork that reads on does not move it, and opens the file again where its
    descriptor was closed, or is another file's now: a user's code runs beside it.
    """

    def __init__(self, descriptor: int, path: Path, end: int | None, check: Callable[[os.stat_result], None]) -> None:
        super().__init__()
        self._descriptor, self._path, self._end, self._check = descriptor, path, end, check
        self._file_id = _file_id(os.fstat(descriptor))
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Offset of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset; from the beginning, from here, or from the end."""
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}
        self._at = offset + (bases[whence] if whence in bases else self._status().st_size)
        return self._at

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer up to the end of the range."""
        view = memoryview(buffer)
        if self._end is not None:
            view = view[: max(0, self._end - self._at)]
        n_bytes = 0
        status = self._status()
        if len(view):
            try:
                n_bytes = os.preadv(self._descriptor, [view], self._at)
            except OSError as error:
                raise unavailable(error, "read", self._path) from error
        self._at += n_bytes
        if not n_bytes:
            self._check(status)
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
        left = self._status().st_size - self._at + 1
        size, blocks = max(1, min(_BLOCK_BYTES, left)), []
        while block := self.read(size):
            blocks.append(block)
        return b"".join(blocks)

    def close(self) -> None:
        """Compare the pin once more: a reader may have stopped before the end."""
        if not self.closed:
            try:
                self._check(self._status())
            finally:
                super().close()
                if self._is_ours():
                    os.close(self._descriptor)

    def _status(self) -> os.stat_result:
        """Of the file, behind whichever descriptor."""
        if not self._is_ours():
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                raise unavailable(error, "read", self._path) from error
            status = os.fstat(self._descriptor)
            if _file_id(status) != self._file_id:
                self._file_id = _file_id(status)
                raise InputChangedError(f"`{self._path}` changed while it was read", hint="run `apply` again")
            self._check(status)
        return os.fstat(self._descriptor)

    def _is_ours(self) -> bool:
        try:
            return _file_id(os.fstat(self._descriptor)) == self._file_id
        except OSError:
            return False


def _file_id(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


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
