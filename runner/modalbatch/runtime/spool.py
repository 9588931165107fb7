"""A part while it is being written: a local file that grows by self-contained pieces. Runs on: container.

Each piece is one compressed member, so that a file cut back to a checkpoint is whole. Publishes nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from modalbatch.stores.local_file import unavailable


class Spool:
    """Appends pieces, knows length and hash. Open only while it writes: a handler may close any descriptor."""

    def __init__(self, path: Path, compress: Callable[[bytes], bytes] | None, resume_bytes: int = 0) -> None:
        self.path = path
        self._compress = compress
        self._sha = hashlib.sha256()
        self.n_bytes = resume_bytes
        if resume_bytes:
            self._reopen(resume_bytes)

    def _reopen(self, n_bytes: int) -> None:
        """Continue what a slot left behind: everything after the checkpoint is cut off."""
        os.truncate(self.path, n_bytes)
        fd = os.open(self.path, os.O_RDONLY)
        try:
            while piece := os.read(fd, 1 << 20):
                self._sha.update(piece)
        finally:
            os.close(fd)

    def append(self, data: bytes | bytearray) -> None:
        """Add one piece; in the file, though not yet on the disk, when this returns.

        Raises:
            UnavailableError: the disk is full, or broken.
        """
        piece = self._compress(bytes(data)) if self._compress else data
        self._sha.update(piece)
        try:
            append_to(self.path, piece, self.n_bytes)
        except OSError as error:
            raise unavailable(error, "write", self.path.parent) from error
        self.n_bytes += len(piece)

    def close(self) -> str:
        """The sha256 in hex."""
        return self._sha.hexdigest()


def append_to(path: Path, data: bytes | bytearray, n_bytes: int) -> None:
    """Add bytes to a file that has `n_bytes`; it is made, or emptied, for the first.

    Raises:
        OSError: the disk is full, or somebody else has written to the file.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | (0 if n_bytes else os.O_TRUNC), 0o644)
    view = memoryview(data)
    try:
        at = os.lseek(fd, 0, os.SEEK_END)
        if at != n_bytes:
            raise OSError(errno.EIO, f"`{path.name}` was altered")
        while view:
            view = view[os.write(fd, view) :]
    finally:
        view.release()
        os.close(fd)
