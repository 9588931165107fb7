"""A part while it is being written: a local file that grows by self-contained pieces. Runs on: container.

Each piece is one compressed member, so that a file cut back to a checkpoint is whole. Publishes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from modalbatch.stores.local_file import unavailable


class Spool:
    """Appends pieces, knows length and hash."""

    def __init__(self, path: Path, compress: Callable[[bytes], bytes] | None, resume_bytes: int = 0) -> None:
        self.path = path
        self._compress = compress
        self._sha = hashlib.sha256()
        self.n_bytes = resume_bytes
        self._fd = -1
        if resume_bytes:
            self._reopen(resume_bytes)

    def _reopen(self, n_bytes: int) -> None:
        """Continue what a slot left behind: everything after the checkpoint is cut off."""
        self._fd = os.open(self.path, os.O_RDWR)
        os.truncate(self._fd, n_bytes)
        while piece := os.read(self._fd, 1 << 20):
            self._sha.update(piece)

    def append(self, data: bytes | bytearray) -> None:
        """Add one piece; in the file, though not yet on the disk, when this returns.

        Raises:
            UnavailableError: the disk is full, or broken.
        """
        piece = self._compress(bytes(data)) if self._compress else data
        self._sha.update(piece)
        view = memoryview(piece)
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise unavailable(error, "write", self.path.parent) from error
        finally:
            view.release()
        self.n_bytes += len(piece)

    def close(self) -> str:
        """The sha256 in hex. Closes: the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        return self._sha.hexdigest()
