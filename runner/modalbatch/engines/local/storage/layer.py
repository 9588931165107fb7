"""What a container has changed in a volume since it mounted it: the upper folder of an overlay. Runs on: laptop.

Owns the way of those changes into the volume's own folder. Only what the container itself did is carried over, file by
file: what others committed meanwhile stays, and of two that wrote one file the last to commit wins, as on Modal.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

#: How the kernel marks a folder that hides the one below it.
_OPAQUE = "user.overlay.opaque"
#: How a file begins that is being written into a volume.
DRAFT_PREFIX = ".modalbatch-"
_PIECE_BYTES = 8 << 20
_GONE, _FOLDER = ("gone",), ("folder",)


class Layer:
    """Changes over a snapshot of a volume, and which of them are in the volume already."""

    def __init__(self, folder: Path, base: Path) -> None:
        """Makes the two folders that an overlay needs in `folder`; `base` is the snapshot below."""
        self.folder = folder
        self._base = base
        self._upper = folder / "upper"
        for path in (self._upper, folder / "work"):
            path.mkdir(parents=True)
        self._upper.chmod(stat.S_IMODE(base.stat().st_mode))
        #: By path: what was carried over.
        self._done: dict[str, tuple[object, ...]] = {}
        #: Files that were not committed because they were new, and how they were then.
        self._resting: dict[str, tuple[object, ...]] = {}

    def commit(self, target: Path, drafts: Path, *, all_files: bool = True) -> None:
        """Brings every change that is not there yet into the folder `target`; whole files appear by rename.

        `drafts`: a folder of the same file system. `all_files`: otherwise only those that are as they were when this
        was last called so; a file that grows is not copied again and again. Order: one at a time for a target.
        """
        entries = list(_walk(self._upper, ""))
        for name in sorted(self._done.keys() - {name for name, _ in entries}, reverse=True):
            if self._done.pop(name) != _GONE:  # made here, committed, and removed since
                _drop(target / name, target)
        rested, self._resting = (None, {}) if all_files else (self._resting, {})
        fresh: set[str] = set()  # folders that show nothing of the snapshot
        for name, status in entries:
            # The time of change as well: code may set the other one back.
            state = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_mode)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                self._once(name, _GONE, self._remove, name, target)
            elif stat.S_ISDIR(status.st_mode):
                if name.rpartition("/")[0] in fresh or not _is_folder(self._base / name):
                    self._once(name, _FOLDER, _make_folder, target / name, target)
                    fresh.add(name)
                elif _is_opaque(self._upper / name):  # it was removed, and made anew
                    self._once(name, ("opaque", status.st_ino), self._renew, name, target)
                    fresh.add(name)
            elif rested is not None and rested.get(name) != state:
                self._resting[name] = state
            elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                self._once(name, state, _publish, self._upper / name, target / name, target, drafts)

    def _once(self, name: str, change: tuple[object, ...], carry: Callable[..., None], *arguments: object) -> None:
        """Carries a change over unless that was done; one that fails is tried again by the next commit."""
        if self._done.get(name) != change:
            carry(*arguments)
            self._done[name] = change

    def _renew(self, name: str, target: Path) -> None:
        self._remove(name, target)
        _make_folder(target / name, target)

    def _remove(self, name: str, target: Path) -> None:
        """Removes what the container saw below a name and has removed; what others have put there stays."""
        seen = self._base / name
        for path, folders, files in os.walk(seen, topdown=False) if _is_folder(seen) else ():
            place = target / Path(path).relative_to(self._base)
            for entry in [*files, *folders]:  # links to folders are among the latter
                _drop(place / entry, target)
        _drop(target / name, target)


def _drop(path: Path, target: Path) -> None:
    """Removes a file, or a folder that is empty; nothing that a link on the way puts outside of `target`."""
    with contextlib.suppress(OSError):
        if path.parent.resolve().is_relative_to(target.resolve()):
            path.rmdir() if _is_folder(path) else path.unlink()


def remove_tree(folder: Path) -> None:
    """Removes a folder and what an overlay has left in it, which the kernel makes without permissions."""
    for path, folders, _ in os.walk(folder):
        for name in folders:
            with contextlib.suppress(OSError):
                if not (Path(path) / name).is_symlink():
                    (Path(path) / name).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """(relative path, state) of everything below a folder, parents first; what vanishes meanwhile is left out.

    Raises: FileNotFoundError when the folder itself is gone.
    """
    for entry in os.scandir(folder / prefix):
        name = f"{prefix}/{entry.name}" if prefix else entry.name
        with contextlib.suppress(FileNotFoundError):
            yield name, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder, name)


def _is_opaque(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    return False


def _publish(source: Path, place: Path, target: Path, drafts: Path) -> None:
    """Copies a file or a link to its place, which may be a folder by now."""
    draft = drafts / secrets.token_hex(8)
    try:
        _make_folder(place.parent, target)
        if drafts.stat().st_dev != place.parent.stat().st_dev:  # somebody has put the volume on another disk
            draft = place.with_name(f"{DRAFT_PREFIX}{draft.name}")
        _copy(source, draft)
        if _is_folder(place):
            shutil.rmtree(place)
        draft.replace(place)
    except FileNotFoundError:  # removed while we looked
        return
    finally:
        draft.unlink(missing_ok=True)


def _copy(source: Path, draft: Path) -> None:
    """Copies with mode and times; holes stay holes."""
    status = source.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_blocks * 512 >= status.st_size:
        shutil.copy2(source, draft, follow_symlinks=False)
        return
    with source.open("rb") as old, draft.open("wb") as new:
        new.truncate(status.st_size)
        position = 0
        with contextlib.suppress(OSError):  # ENXIO: nothing but a hole is left
            while position < status.st_size:
                position = os.lseek(old.fileno(), position, os.SEEK_DATA)
                end = os.lseek(old.fileno(), position, os.SEEK_HOLE)
                _copy_range(old.fileno(), new.fileno(), position, end)
                position = end
    shutil.copystat(source, draft)


def _copy_range(old: int, new: int, start: int, end: int) -> None:
    while start < end and (data := os.pread(old, min(_PIECE_BYTES, end - start), start)):
        os.pwrite(new, data, start)
        start += len(data)


def _make_folder(folder: Path, target: Path) -> None:
    """Makes a folder with its parents up to `target`; files that are in the way go."""
    for path in [*reversed([p for p in folder.parents if target in p.parents]), folder]:
        if path != target and (path.is_symlink() or path.is_file()):
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
