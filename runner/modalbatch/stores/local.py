"""A folder as a store. Runs on: both.

Owns durable write-once files: temp file, fsync, `link(2)`, fsync of the folder. Reads regular files only: links to
files and folders are followed once, pipes and devices are never opened. Unfinished writes stand in `_modalbatch/tmp/`,
which no listing shows.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO, cast

from modalbatch.errors import (
    InternalError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from modalbatch.stores import Entry
from modalbatch.stores.local_file import PinnedFile, check_pin, unavailable
from modalbatch.stores.write_once import probe_name

_TMP = "_modalbatch/tmp/"
_COPY_BYTES = 4 << 20


class LocalStore:
    """Files below one folder. The folder is made by the first write."""

    has_conditional_create = True

    def __init__(self, uri: str, *, pin: Callable[[os.stat_result], str] | None = None) -> None:
        """`pin` says what of a file must not change while it is read: by default its size and mtime."""
        self._pin = pin or _size_and_mtime
        self._root = Path(uri.removeprefix("file://"))
        if not self._root.is_absolute():
            raise InternalError(f"a local store needs an absolute path, found `{uri}`")
        self.uri = f"{str(self._root).rstrip('/')}/"

    def list(self, prefix: str = "", *, descend: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        """Regular files in byte order of their names; `descend` may keep it out of folders (`sub/`)."""
        folder, _, _ = prefix.rpartition("/")
        start = f"{folder}/" if folder else ""
        return self._walk(start, prefix, descend, frozenset())

    def _walk(
        self, folder: str, prefix: str, descend: Callable[[str], bool] | None, above: frozenset[tuple[int, int]]
    ) -> Iterator[Entry]:
        """One folder and those below it. Memory: the names of one folder a level."""
        path = self._root / folder
        try:
            status = path.stat()
            names = _names_in(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise unavailable(error, "list", path) from error
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        for raw in names:
            name = folder + os.fsdecode(raw)
            if not name.startswith(prefix):
                continue
            if name.endswith("/"):
                if name != _TMP and (descend is None or descend(name)):
                    yield from self._walk(name, "", descend, above | {here})
            elif entry := self.stat(name):
                yield entry

    def stat(self, name: str) -> Entry | None:
        """The file, or None where there is none or something that is not a regular file."""
        try:
            status = self._path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise unavailable(error, "read", self._path(name)) from error
        if not stat.S_ISREG(status.st_mode):
            return None
        return Entry(name, status.st_size, status.st_mtime, "", self._pin(status))

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        with self.open(name) as stream:
            return stream.read()

    def open(self, name: str, *, start: int = 0, end: int | None = None, pin: str = "") -> BinaryIO:
        """The bytes [start, end), unbuffered. The pin is compared when opened, and again at the end and on close."""
        path = self._path(name)
        try:
            # O_NONBLOCK: a pipe that took the file's place answers at once instead of waiting for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"`{path}` does not exist") from None
        except OSError as error:
            raise unavailable(error, "read", path) from error
        try:
            check = partial(check_pin, path, self._pin, pin)
            check(os.fstat(descriptor))
            stream = PinnedFile(descriptor, path, end, check)
            stream.seek(start)
        except BaseException:
            os.close(descriptor)
            raise
        return cast("BinaryIO", stream)

    def create(self, name: str, data: bytes) -> bool:
        """Write-once and durable: about 0.5 ms on a local disk with a cache, two fsyncs."""
        path = self._path(name)
        temp_path = self.spool_dir() / f"{uuid.uuid4().hex}.new"
        try:
            _write_file(temp_path, data)
            if _link(temp_path, path):
                return True
        finally:
            with suppress(OSError):
                temp_path.unlink()
        same = self.read(name) == data
        if same:
            # Ours, from a try that may have died before this line.
            try:
                _sync_folder(path.parent)
            except OSError as error:
                raise unavailable(error, "write", path) from error
        return same

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """Publish a file by a link; from another file system by a copy whose hash is compared."""
        target_path = self._path(name)
        source_path = path
        try:
            if not _is_same_device(path, self.spool_dir()):
                source_path = self.spool_dir() / f"{uuid.uuid4().hex}.copy"
                with path.open("rb") as source:
                    _copy(source, source_path, sha256)
            else:
                _sync_file(path)
            if not _link(source_path, target_path) and _sha256(target_path) != sha256:
                raise StateError(f"`{target_path}` exists and is not ours; nothing was overwritten")
        except OSError as error:
            raise unavailable(error, "write", target_path) from error
        finally:
            if source_path != path:
                with suppress(OSError):
                    source_path.unlink()
        with suppress(OSError):  # it is published; whoever made it removes what is left of it
            path.unlink()

    def replace(self, name: str, data: bytes) -> None:
        """Overwrite in one step: readers see the old bytes or the new ones."""
        self.replace_stream(name, BytesIO(data), hashlib.sha256(data).hexdigest())

    def replace_stream(self, name: str, source: BinaryIO, sha256: str) -> None:
        """`replace` with a stream's bytes, whose hash is compared before anything is overwritten."""
        path = self._path(name)
        temp_path = self.spool_dir() / f"{uuid.uuid4().hex}.new"
        try:
            _copy(source, temp_path, sha256)
            path.parent.mkdir(parents=True, exist_ok=True)
            temp_path.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise unavailable(error, "write", path) from error
        finally:
            with suppress(OSError):
                temp_path.unlink()

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; absent ones are fine. Folders stay."""
        for name in names:
            try:
                self._path(name).unlink()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise unavailable(error, "delete", self._path(name)) from error

    def spool_dir(self) -> Path:
        """`_modalbatch/tmp/` of this store: the same file system, so publishing is a link."""
        path = self._root / _TMP
        if not path.is_dir():
            _make_folder(path)
        return path

    def sweep_unfinished(self, older_than_s: float, is_ours: Callable[[str], bool]) -> int:
        """Remove files that writers left in `_modalbatch/tmp/` when they died; how many."""
        n_removed = 0
        with suppress(FileNotFoundError):
            for entry in os.scandir(self._root / _TMP):
                with suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > older_than_s:
                        Path(entry.path).unlink()
                        n_removed += 1
        return n_removed

    def commit(self) -> None:
        """Nothing: files are visible when they are linked."""

    def refresh(self) -> None:
        """Nothing: every read sees the folder as it is."""

    def probe(self) -> None:
        """Create one name twice: proves access, room for a file, and that links do not overwrite."""
        name = probe_name()
        try:
            first, second = self.create(name, b"first"), self.create(name, b"second")
        finally:
            self.delete([name])
        if (first, second) != (True, False):
            raise StateError(
                f"`{self.uri}` does not keep files that are written once",
                hint="use another folder, or set `delivery: at_least_once`",
            )

    def _path(self, name: str) -> Path:
        if name.startswith("/") or "\0" in name or ".." in name.split("/"):
            raise InternalError(f"`{name}` is no name in `{self.uri}`")
        return self._root / name


def _size_and_mtime(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _names_in(path: Path) -> list[bytes]:
    """Names of a folder in the order of the full names below it: folders sort as `name/`."""
    names = []
    with os.scandir(os.fsencode(path)) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            names.append(entry.name + b"/" if is_folder else entry.name)
    names.sort()
    return names


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, each durable in its parent."""
    try:
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            with suppress(FileExistsError):
                folder.mkdir()
            _sync_folder(folder.parent)
    except OSError as error:
        raise unavailable(error, "write", path) from error


def _write_file(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unavailable(error, "write", path) from error


def _link(source_path: Path, target_path: Path) -> bool:
    """Give a file its final name, durably; False when the name is taken."""
    try:
        try:
            os.link(source_path, target_path)
        except FileNotFoundError:
            _make_folder(target_path.parent)
            os.link(source_path, target_path)
        _sync_folder(target_path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise StateError(
                f"the file system of `{target_path.parent}` has no hard links, so nothing can be written once",
                hint="use a folder on a local disk",
            ) from error
        raise unavailable(error, "write", target_path) from error
    return True


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_same_device(path: Path, folder: Path) -> bool:
    return path.stat().st_dev == folder.stat().st_dev


def _copy(source: BinaryIO, target_path: Path, sha256: str) -> None:
    """A durable copy, compared with the hash that its maker took."""
    digest = hashlib.sha256()
    with target_path.open("xb", buffering=0) as target:
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            rest = memoryview(block)
            while rest:
                rest = rest[target.write(rest) :]
        os.fsync(target.fileno())
    if digest.hexdigest() != sha256:
        raise UnavailableError(
            f"`{target_path}` is not what was to be copied", hint="run `apply` again, check the disk"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with BufferedReader(FileIO(path), _COPY_BYTES) as stream:
        while block := stream.read(_COPY_BYTES):
            digest.update(block)
    return digest.hexdigest()
