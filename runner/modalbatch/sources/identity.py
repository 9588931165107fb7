"""What local files hold: sha256 of their content. Runs on: both.

Owns the cache of hashes by path, size, mtime and inode in a SQLite file: never the truth, shared by processes, rebuilt
when it is gone. Refuses to remember a file that was written within the last two seconds: it may be written again
without a new mtime.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 4 << 20
_RACY_NS = 2_000_000_000
_WAITING_COUNT = 500
_SCHEMA = """
create table if not exists content (
    path blob primary key, size integer, mtime_ns integer, inode integer, sha256 text
) without rowid
"""


def hash_stream(stream: BinaryIO, size_bytes: int) -> str:
    """sha256 of a raw stream of about that size, in blocks of at most 4 MiB."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(min(_BLOCK_BYTES, size_bytes + 1)))
    while n_bytes := stream.readinto(block):  # type: ignore[attr-defined]
        digest.update(block[:n_bytes])
    return digest.hexdigest()


class IdentityCache:
    """Hashes of local files. Every failure of the cache is a miss. Safe from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._waiting: list[tuple[object, ...]] = []
        self._is_broken = False

    def find(self, path: str) -> str | None:
        """The hash of the file as it is now, if it is known."""
        with suppress(OSError):
            status = os.stat(path)  # noqa: PTH116
            rows = self._run(
                "select sha256 from content where path = ? and size = ? and mtime_ns = ? and inode = ?",
                (os.fsencode(path), status.st_size, status.st_mtime_ns, status.st_ino),
            )
            return str(rows[0][0]) if rows else None
        return None

    def remember(self, path: str, pin: str, sha256: str) -> None:
        """Keep a hash, if the file still is what was hashed (`pin`) and is not younger than its clock can tell."""
        with suppress(OSError):
            status = os.stat(path)  # noqa: PTH116
            is_racy = abs(time.time_ns() - status.st_mtime_ns) < _RACY_NS
            if pin == f"{status.st_size}-{status.st_mtime_ns}" and not is_racy:
                row = (os.fsencode(path), status.st_size, status.st_mtime_ns, status.st_ino, sha256)
                with self._lock:
                    self._waiting.append(row)
                    is_full = len(self._waiting) >= _WAITING_COUNT
                if is_full:
                    self.flush()

    def flush(self) -> None:
        """Write what was remembered: one transaction for many rows, since each costs as much as a hundred rows."""
        with self._lock:
            rows, self._waiting = self._waiting, []
        if rows:
            self._run("insert or replace into content values (?, ?, ?, ?, ?)", rows=rows)

    def _run(
        self, statement: str, values: tuple[object, ...] = (), *, rows: list[tuple[object, ...]] | None = None
    ) -> list[tuple[object, ...]]:
        with self._lock:
            if self._is_broken:
                return []
            try:
                if self._connection is None:
                    self._connection = self._open()
                if rows is not None:
                    # Immediate: the lock is waited for at the beginning, where SQLite can wait.
                    self._connection.execute("begin immediate")
                    self._connection.executemany(statement, rows)
                    self._connection.execute("commit")
                    return []
                return self._connection.execute(statement, values).fetchall()
            except (sqlite3.Error, OSError):
                # A cache that cannot be used costs time, never correctness.
                self._is_broken = True
                return []

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=5, isolation_level=None, check_same_thread=False)
        # Lost at a power cut is fine, so nothing waits for the disk.
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = off")
        connection.execute(_SCHEMA)
        return connection
