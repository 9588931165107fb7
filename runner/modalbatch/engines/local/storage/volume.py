"""Volumes: plain folders under `home/volumes/<environment>/<name>`. Runs on: laptop.

Owns the committed files, as clients outside of containers list, read, write, copy and remove them, all kept inside the
volume's folder. A file is replaced, never written in place: snapshots share it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from modalbatch.engines.local.storage.layer import DRAFT_PREFIX
from modalbatch.engines.local.wire import Message, already_exists, invalid, not_found, proto

#: Size of the blocks in which version-2 files cross the wire; fixed by the client.
BLOCK_BYTES = 8 << 20


def inside(folder: Path, path: str) -> Path:
    """A path of a volume as a path of this machine. Raises: an error for one that leaves the volume."""
    target = Path(os.path.normpath(folder / path.lstrip("/")))
    is_within = target == folder or folder in target.parents
    # A link that a container has committed may lead anywhere.
    if not is_within or (target != folder and not target.parent.resolve().is_relative_to(folder.resolve())):
        raise invalid(f"path {path!r} is outside the volume")
    return target


def existing(folder: Path, path: str) -> Path:
    """Like `inside`, for something that must be there."""
    target = inside(folder, path)
    if not os.path.lexists(target):
        raise not_found(f"no file or folder {path!r} in the volume")
    if target.is_symlink() and not target.resolve().is_relative_to(folder.resolve()):
        raise invalid(f"path {path!r} is a link to outside the volume")
    return target


def mounted_folder(folder: Path, sub_path: str) -> Path:
    """The folder of a volume that is mounted, made if need be. Raises: an error for one that leaves the volume."""
    target = inside(folder, sub_path) if sub_path.strip("/") else folder
    if target.is_symlink() or target.is_file():
        raise invalid(f"{sub_path!r} is no folder of the volume")
    target.mkdir(parents=True, exist_ok=True)
    return target


def list_files(folder: Path, path: str, *, recursive: bool) -> Iterator[Message]:
    """Entries of a folder, or the one entry of a file; lazy, sorted by name within each folder."""
    start = existing(folder, path)
    if not start.is_dir():
        yield _entry(folder, start)
        return
    for item in sorted(start.iterdir()):
        yield _entry(folder, item)
        if recursive and item.is_dir() and not item.is_symlink():
            yield from list_files(folder, str(item.relative_to(folder)), recursive=True)


def write_file(folder: Path, path: str, pieces: Iterable[Path], *, size: int, mode: int) -> None:
    """Writes a file from the files that hold its pieces; it appears whole or not at all."""
    target = inside(folder, path)
    if target.is_dir():
        raise invalid(f"{path!r} is a folder in the volume")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _draft(target) as draft:
        with draft.open("wb") as file:
            for number, piece in enumerate(pieces):
                file.seek(number * BLOCK_BYTES)  # trailing zeros of a block are not sent
                with piece.open("rb") as source:
                    shutil.copyfileobj(source, file)
            file.truncate(size)
        draft.chmod(mode or 0o644)
        draft.replace(target)


def refuse_overwriting(folder: Path, paths: Iterable[str]) -> None:
    """Raises: ALREADY_EXISTS when one of the files is there."""
    for path in paths:
        if inside(folder, path).exists():
            raise already_exists(f"{path}: already exists")


def remove_file(folder: Path, path: str, *, recursive: bool) -> None:
    """Removes a file, or with `recursive` a folder."""
    target = existing(folder, path)
    if not target.is_dir() or target.is_symlink():
        target.unlink()
    elif not recursive:
        raise invalid(f"{path!r} is a folder: removing it needs `recursive`")
    elif target == folder:
        for item in list(folder.iterdir()):
            remove_file(folder, item.name, recursive=True)
    else:
        shutil.rmtree(target)


def copy_files(folder: Path, sources: list[str], target_path: str, *, recursive: bool) -> None:
    """Copies as `cp` does: into a folder that exists or whose name ends in a slash, else to that name."""
    target = inside(folder, target_path)
    into = target.is_dir() or target_path.endswith("/") or len(sources) > 1
    for path in sources:
        source = existing(folder, path)
        place = target / source.name if into else target
        place.parent.mkdir(parents=True, exist_ok=True)
        if not source.is_dir():
            _copy_file(source, place)
        elif recursive:
            shutil.copytree(source, place, dirs_exist_ok=True, copy_function=_copy_file)
        else:
            raise invalid(f"{path!r} is a folder: copying it needs `recursive`")


def _copy_file(source: str | Path, place: str | Path) -> None:
    with _draft(Path(place)) as draft:
        shutil.copy2(source, draft)
        draft.replace(place)


@contextlib.contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """A file beside its later place; it does not stay behind."""
    draft = target.with_name(f"{DRAFT_PREFIX}{secrets.token_hex(8)}")
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _entry(folder: Path, path: Path) -> Message:
    kinds = proto.FileEntry.FileType
    state = path.lstat()
    kind = kinds.SYMLINK if path.is_symlink() else kinds.DIRECTORY if path.is_dir() else kinds.FILE
    size = 0 if path.is_dir() else state.st_size
    name = os.fsencode(path.relative_to(folder)).decode("utf-8", "replace")
    return proto.FileEntry(path=name, type=kind, mtime=int(state.st_mtime), size=size)
