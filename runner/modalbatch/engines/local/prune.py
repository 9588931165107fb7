"""What an engine leaves on disk, and which of it can go. Runs on: laptop.

Owns the rules: environments and files of images that nobody used for 30 days, logs as old, payloads and uploaded code
that no deployed app needs. Refuses while an engine of the home runs. Never touches volumes, dicts, queues, secrets or
results.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from modalbatch.engines.local.containers.log import MAX_LOG_BYTES
from modalbatch.engines.local.images.environment import cache_folder
from modalbatch.engines.local.images.image import read_image
from modalbatch.engines.local.images.provision import image_layers
from modalbatch.engines.local.store import Store
from modalbatch.engines.local.wire import Message, proto
from modalbatch.errors import UnavailableError

KEPT_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """Things of one kind that can go."""

    #: What a person calls them.
    name: str
    paths: tuple[Path, ...]
    #: What they take on disk.
    n_bytes: int


@contextlib.contextmanager
def pruning(home: Path, environ: Mapping[str, str]) -> Iterator[list[Waste]]:
    """What can go of a home and of the cache of environments; no engine of the home starts meanwhile.

    Raises: UnavailableError when one runs.
    """
    home.mkdir(parents=True, exist_ok=True)
    lock = os.open(home / "engine.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnavailableError(f"a local engine uses {home}", hint="prune when its commands have ended") from error
        yield [waste for waste in _find(home, environ) if waste.paths]
    finally:
        os.close(lock)


def free(waste: Waste) -> None:
    """Removes it."""
    for path in waste.paths:
        if path.is_dir() and not path.is_symlink():
            # By rename, so that nobody takes half an environment for a whole one.
            doomed = path.rename(path.with_name(f"{path.name}.draft-pruned"))
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def old_logs(folder: Path) -> Iterator[Path]:
    """Logs of apps and fork servers that nobody wrote to for a while, and those that take no more."""
    for pattern in ("ap-*.log", "im-*.log", "*.err"):
        for path in folder.glob(pattern):
            if _is_old(path) or path.stat().st_size >= MAX_LOG_BYTES:
                yield path


def _find(home: Path, environ: Mapping[str, str]) -> Iterator[Waste]:
    state = home / "engine"
    environments = cache_folder(environ) / "envs"
    yield _waste("environments not used for 30 days", _old_environments(environments))
    yield _waste("logs that are full or older than 30 days", old_logs(state / "logs"))
    blobs: set[str] = set()
    contents: set[str] = set()
    layers: set[str] = set()
    if (state / "state.db").exists():
        store = Store(state / "state.db")
        blobs = {blob_id for blob_id, _ in store.all("blob")}
        contents, layers = _needed_contents(store), _needed_layers(store)
        store.close()
    unused = (path for path in _others(state / "layers", layers) if _is_old(path))
    yield _waste("files of images not used for 30 days", unused)
    yield _waste("payloads of calls that are over", _others(state / "blobs", blobs))
    yield _waste("uploaded code that no deployed app needs", _others(state / "files", contents))
    # Both are made of links to contents, again when they are needed.
    yield _waste("folders made of uploaded code", [*_others(state / "roots", ()), *_others(state / "mounts", ())])


def _waste(name: str, paths: Iterable[Path]) -> Waste:
    found = tuple(sorted(paths))
    return Waste(name=name, paths=found, n_bytes=sum(map(_size_bytes, found)))


def _is_old(path: Path) -> bool:
    return path.stat().st_mtime < time.time() - KEPT_S


def _old_environments(folder: Path) -> Iterator[Path]:
    """Environments, with the drafts of builders that were killed."""
    return (path for path in folder.glob("*") if path.is_dir() and _is_old(path))


def _others(folder: Path, kept: Iterable[str]) -> Iterator[Path]:
    return (path for path in folder.glob("*") if path.name not in kept)


def _definitions(store: Store) -> list[Message]:
    """Deployed functions, in every version that is kept."""
    saved = store.all("function") + store.all("definition")
    return [proto.FunctionCreateRequest.FromString(data).function for _, data in saved]


def _needed_contents(store: Store) -> set[str]:
    """Contents of the mounts of deployed functions and of their images."""
    needed: set[str] = set()
    for definition in _definitions(store):
        copies = read_image(list(image_layers(store, definition.image_id).values()), lambda _: "").copies
        for mount_id in [*definition.mount_ids, *(mount_id for mount_id, _ in copies)]:
            mount = store.find("mount", mount_id)
            files = proto.MountGetOrCreateRequest.FromString(mount).files if mount else []
            needed |= {item.sha256_hex for item in files}
    return needed


def _needed_layers(store: Store) -> set[str]:
    """Images of deployed functions, with those below them."""
    return {image_id for definition in _definitions(store) for image_id in image_layers(store, definition.image_id)}


def _size_bytes(path: Path) -> int:
    """What goes when it goes: of a file with several names only the last one takes its blocks along."""
    own = path.lstat()
    total = own.st_blocks * 512 if path.is_dir() or own.st_nlink == 1 or path.parent.name == "files" else 0
    if path.is_dir() and not path.is_symlink():
        total += sum(_size_bytes(Path(entry.path)) for entry in os.scandir(path))
    return total
