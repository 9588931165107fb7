"""Modal Volumes. Runs on: both.

Owns the two ways to a Volume: the folder where a container mounts it, and Modal's API from a laptop. Refuses to
promise write-once creation: among containers the last writer wins, and what is written is seen by others after `commit`
here and `refresh` there.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from modalbatch.errors import InputChangedError, NotFoundError, StateError, UnavailableError
from modalbatch.stores import Entry, Store
from modalbatch.stores.local import LocalStore
from modalbatch.stores.write_once import probe_name

if TYPE_CHECKING:
    import modal

#: Volumes of ours: version 2 takes hundreds of writers, version 1 five.
_VERSION = 2


def open_volume(uri: str, volume_paths: Mapping[str, str]) -> Store:
    """The store for `volume://name/path/`: mounted where `volume_paths` says so, else through Modal's API."""
    name, _, path = uri.removeprefix("volume://").partition("/")
    if path and not path.endswith("/"):
        path += "/"
    if name not in volume_paths:
        return VolumeApiStore(name, path)
    import modal

    volume = modal.Volume.from_name(name)
    folder = f"{volume_paths[name].rstrip('/')}/{path}"
    return MountedVolumeStore(f"volume://{name}/{path}", folder, commit=volume.commit, refresh=volume.reload)


class MountedVolumeStore:
    """Plain files in the folder where a Volume is mounted."""

    has_conditional_create = False

    def __init__(self, uri: str, folder: str, *, commit: Callable[[], object], refresh: Callable[[], object]) -> None:
        self.uri = uri
        self._folder = Path(folder)
        self._files = LocalStore(folder, pin=_size_and_second)
        self._commit, self._refresh = commit, refresh
        self._lock = threading.Lock()
        self._open_files = _OpenFiles()

    def list(self, prefix: str = "", *, descend: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        """Files as this container sees them."""
        return self._files.list(prefix, descend=descend)

    def stat(self, name: str) -> Entry | None:
        """The file as this container sees it."""
        return self._files.stat(name)

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        with self._open_files.one():
            return self._files.read(name)

    def open(self, name: str, *, start: int = 0, end: int | None = None, pin: str = "") -> BinaryIO:
        """The bytes [start, end). An open file keeps `refresh` from working: close it first."""
        return self._files.open(name, start=start, end=end, pin=pin)

    def create(self, name: str, data: bytes) -> bool:
        """Write-once within this container only."""
        with self._open_files.one():
            with self._lock:
                if self._files.stat(name) is None:
                    self._files.replace(name, data)
            return self._files.read(name) == data

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """Copy into the Volume beside its place, then rename: a background commit never shows half a file."""
        with self._open_files.one(), self._lock:
            if self._files.stat(name) is not None:
                raise StateError(f"`{self.uri}{name}` exists and is not ours; nothing was overwritten")
            with path.open("rb") as source:
                self._files.replace_stream(name, source, sha256)
        path.unlink()

    def replace(self, name: str, data: bytes) -> None:
        """Overwrite by a rename."""
        with self._open_files.one():
            self._files.replace(name, data)

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; absent ones are fine."""
        self._files.delete(names)

    def spool_dir(self) -> Path:
        """The container's own disk: what is half-written in a Volume is committed too."""
        return Path(tempfile.gettempdir())

    def sweep_unfinished(self, older_than_s: float, is_ours: Callable[[str], bool]) -> int:
        """Remove temp files of writers that died."""
        return self._files.sweep_unfinished(older_than_s, is_ours)

    def commit(self) -> None:
        """Make this container's files visible to others."""
        with _volume_errors(self.uri):
            self._commit()

    def refresh(self) -> None:
        """See what others committed. Waits for files that this store reads; streams of `open` are the caller's."""
        with self._open_files.none(), _volume_errors(self.uri):
            self._refresh()

    def probe(self) -> None:
        """Write, commit and remove one file: proves access. Nothing here can prove write-once creation."""
        name = probe_name()
        try:
            self.create(name, b"probe")
            self.commit()
        finally:
            self.delete([name])


class VolumeApiStore:
    """A Volume through Modal's API: what the command uses where nothing is mounted."""

    has_conditional_create = False

    def __init__(self, name: str, path: str) -> None:
        self.uri = f"volume://{name}/{path}"
        self._name, self._path = name, path
        self._found: modal.Volume | None = None

    def list(self, prefix: str = "", *, descend: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        """Files in byte order. Memory: the entries of the folder, since the API's order is its own."""
        from modal.exception import NotFoundError as NoSuchObject

        folder = self._path + prefix[: prefix.rfind("/") + 1]
        entries = []
        with suppress(NoSuchObject, NotFoundError, FileNotFoundError), _volume_errors(self.uri):
            entries = [_entry(item, self._path) for item in self._volume().iterdir(f"/{folder}") if _is_file(item)]
        entries = [entry for entry in entries if entry.name.startswith(prefix)]
        return iter(sorted(entries, key=lambda entry: entry.name.encode("utf-8", "surrogateescape")))

    def stat(self, name: str) -> Entry | None:
        """The file, from the listing of its folder."""
        return next((entry for entry in self.list(name) if entry.name == name), None)

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        with _volume_errors(self.uri):
            try:
                return b"".join(self._volume().read_file(f"/{self._path}{name}"))
            except FileNotFoundError:
                raise NotFoundError(f"`{self.uri}{name}` does not exist") from None

    def open(self, name: str, *, start: int = 0, end: int | None = None, pin: str = "") -> BinaryIO:
        """The bytes [start, end) of a temporary copy: the API gives whole files."""
        if pin and (found := self.stat(name)) and found.pin != pin:
            raise InputChangedError(f"`{self.uri}{name}` changed after it was listed", hint="run `apply` again")
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        with _volume_errors(self.uri):
            try:
                for block in self._volume().read_file(f"/{self._path}{name}"):
                    copy.write(block)
            except FileNotFoundError:
                copy.close()
                raise NotFoundError(f"`{self.uri}{name}` does not exist") from None
        if end is not None:
            copy.truncate(min(end, copy.tell()))
        copy.seek(start)
        return cast("BinaryIO", copy)

    def create(self, name: str, data: bytes) -> bool:
        """Upload that refuses to overwrite; without a promise when two do it at once."""
        try:
            self._upload(name, io.BytesIO(data), force=False)
        except FileExistsError:
            return self.read(name) == data
        return True

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """Upload that refuses to overwrite; the client hashes what it sends."""
        try:
            self._upload(name, path, force=False)
        except FileExistsError:
            raise StateError(f"`{self.uri}{name}` exists and is not ours; nothing was overwritten") from None
        path.unlink()

    def replace(self, name: str, data: bytes) -> None:
        """Upload that overwrites."""
        self._upload(name, io.BytesIO(data), force=True)

    def _upload(self, name: str, content: io.BytesIO | Path, *, force: bool) -> None:
        with _volume_errors(self.uri), self._volume(create=True).batch_upload(force=force) as batch:
            batch.put_file(content, f"/{self._path}{name}")

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; absent ones are fine."""
        for name in names:
            with suppress(FileNotFoundError, NotFoundError), _volume_errors(self.uri):
                self._volume().remove_file(f"/{self._path}{name}")

    def spool_dir(self) -> Path:
        """The machine's folder for temporary files."""
        return Path(tempfile.gettempdir())

    def sweep_unfinished(self, older_than_s: float, is_ours: Callable[[str], bool]) -> int:
        """Nothing: an upload is there as a whole or not at all."""
        return 0

    def commit(self) -> None:
        """Nothing: an upload is committed when it ends."""

    def refresh(self) -> None:
        """Nothing: the API shows what is committed."""

    def probe(self) -> None:
        """Write and remove one file: proves access. Nothing here can prove write-once creation."""
        name = probe_name()
        self.create(name, b"probe")
        self.delete([name])

    def _volume(self, *, create: bool = False) -> modal.Volume:
        """The Volume; made, as version 2, only by a write."""
        if self._found is None:
            import modal
            from modal.exception import NotFoundError as NoSuchObject

            volume = modal.Volume.from_name(self._name)
            try:
                volume.hydrate()
            except NoSuchObject:
                if not create:
                    raise NotFoundError(
                        f"the Volume `{self._name}` does not exist",
                        hint=f"modal volume create --version=2 {self._name}",
                    ) from None
                volume = modal.Volume.from_name(self._name, create_if_missing=True, version=_VERSION)
                volume.hydrate()
            self._found = volume
        return self._found


class _OpenFiles:
    """Many may have a file open, or one may see to it that none is."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_open = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A file is open meanwhile."""
        with self._changed:
            self._n_open += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_open -= 1
                self._changed.notify_all()

    @contextmanager
    def none(self) -> Iterator[None]:
        """No file is open, nor can one be opened, meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._n_open)
            yield


def _is_file(item: Any) -> bool:
    # The enumeration moved between releases of the client; its names did not.
    return bool(item.type.name == "FILE")


def _entry(item: Any, root: str) -> Entry:
    name = item.path.lstrip("/")[len(root) :]
    return Entry(name, item.size, float(item.mtime), "", f"{item.size}-{item.mtime}")


def _size_and_second(status: os.stat_result) -> str:
    """The pin that mounts and the API agree on: the API knows whole seconds."""
    return f"{status.st_size}-{int(status.st_mtime)}"


@contextmanager
def _volume_errors(uri: str) -> Iterator[None]:
    """Failures of Modal's client as what a person can do about them."""
    import modal.exception

    try:
        yield
    except (modal.exception.AuthError, modal.exception.ConnectionError) as error:
        raise UnavailableError(
            f"cannot reach `{uri}`: {error}", hint="check `modal token info` and the network"
        ) from error
    except RuntimeError as error:
        # Modal's word for `there are open files`.
        raise UnavailableError(f"`{uri}` is busy: {error}", hint="close its files before it is refreshed") from error
