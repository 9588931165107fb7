"""Frozen states of volumes, as folders of hard links. Runs on: laptop.

Owns one rule: a file that a snapshot shares with its volume is never written in place, only replaced. So a snapshot
costs no room, and time in proportion to the number of files; an unchanged volume is not linked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from modalbatch.engines.local.storage.layer import remove_tree

#: (relative path, kind, what identifies its state).
Entry = tuple[str, str, tuple[object, ...]]


@dataclass(slots=True, eq=False)
class Snapshot:
    """A state of one volume."""

    path: Path
    #: Hash over names, inodes and times.
    signature: str
    #: Views that show it.
    n_users: int = 0


class Snapshots:
    """The snapshots of all volumes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()
        #: The newest one of each volume's folder.
        self._newest: dict[Path, Snapshot] = {}

    def take(self, source: Path) -> Snapshot:
        """The state of a folder as it is now; the caller lets go of it with `drop`.

        Order: not while files are committed to it. Retry-safe: an equal state is the same snapshot.
        """
        entries = list(_walk(source, ""))
        signature = hashlib.sha256("\n".join(repr(fact) for _, _, fact in entries).encode()).hexdigest()
        newest = self._newest.get(source)
        if newest is None or newest.signature != signature:
            taken = Snapshot(self._folder / str(next(self._numbers)), signature)
            try:
                _link_all(source, taken.path, entries)
            except OSError:
                remove_tree(taken.path)
                raise
            self.forget(source)
            newest = self._newest[source] = taken
        newest.n_users += 1
        return newest

    def forget(self, source: Path) -> None:
        """Does not keep the state of a folder for the next view: it is out of date, or the folder is gone."""
        newest = self._newest.pop(source, None)
        if newest is not None and not newest.n_users:
            remove_tree(newest.path)

    def forget_unused(self) -> None:
        """Keeps only what is shown: data that was deleted since does not take room for nothing."""
        for source in [source for source, newest in self._newest.items() if not newest.n_users]:
            self.forget(source)

    def drop(self, snapshot: Snapshot) -> None:
        """Lets go of a snapshot; one that nobody shows and that is not the newest is removed."""
        snapshot.n_users -= 1
        if not snapshot.n_users and snapshot not in self._newest.values():
            remove_tree(snapshot.path)


def _walk(folder: Path, prefix: str) -> Iterator[Entry]:
    """Everything below a folder, parents first, by name; what somebody removes by hand meanwhile is left out."""
    for entry in sorted(os.scandir(folder / prefix), key=lambda found: found.name):
        name = f"{prefix}/{entry.name}" if prefix else entry.name
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                yield name, "folder", (name, status.st_mode)
                yield from _walk(folder, name)
            elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
                kind = "link" if entry.is_symlink() else "file"
                yield name, kind, (name, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)


def _link_all(source: Path, target: Path, entries: list[Entry]) -> None:
    target.mkdir(parents=True)
    for name, kind, _ in entries:
        with contextlib.suppress(FileNotFoundError):  # removed by hand
            if kind == "folder":
                (target / name).mkdir()
            elif kind == "link":
                (target / name).symlink_to((source / name).readlink())
            else:
                _link(source / name, target / name)
    # Last, and the deepest first: in a folder without permissions nothing can be made.
    for name, kind, _ in [*reversed(entries), ("", "folder", ())]:
        if kind == "folder":
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(source / name, target / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
