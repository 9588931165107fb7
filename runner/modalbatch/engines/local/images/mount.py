"""Code and files that a client uploads, as folders on disk. Runs on: laptop.

Owns three folders of the home: `files` (one file per content), `mounts` (one tree per uploaded mount) and `roots` (what
one function sees, made of links into mounts). Each is made once per content and never changed, so bytecode that a
container writes beside a module serves the next one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modalbatch.engines.local.store import Store
from modalbatch.engines.local.wire import Message, invalid, not_found, proto

#: Equal files keep equal times, so that bytecode compiled in one mount is valid in another.
_MODIFIED_AT = 1_600_000_000
_HOME = "root"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """What a function sees of its mounts."""

    #: Stands for /root: first on the search path, working folder.
    home: Path
    #: (source, absolute target) of everything outside /root.
    binds: tuple[tuple[str, str], ...]
    #: The same of what is in /root, for containers that see the host's.
    home_binds: tuple[tuple[str, str], ...]


class MountStore:
    """Uploaded files and mounts of one home."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder = folder
        self._store = store
        self._roots: dict[tuple[object, ...], Root] = {}
        for name in ("files", "mounts", "roots"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def has_file(self, sha256: str) -> bool:
        """Whether a content is here."""
        return self._file(sha256).exists()

    def put_file(self, sha256: str, data: bytes | Path) -> None:
        """Keeps a content, given as bytes or as a file to take over."""
        handle, draft = tempfile.mkstemp(dir=self._folder / "files")
        with os.fdopen(handle, "wb") as file:
            if isinstance(data, bytes):
                file.write(data)
        if isinstance(data, Path):
            data.replace(draft)
        os.utime(draft, (_MODIFIED_AT, _MODIFIED_AT))
        Path(draft).chmod(0o444)
        Path(draft).replace(self._file(sha256))

    def file(self, sha256: str) -> Path:
        """The file of a content. Raises: a readable error when it was never uploaded."""
        if not self.has_file(sha256):
            raise not_found(f"file {sha256} was not uploaded")
        return self._file(sha256)

    def add(self, files: Iterable[Message]) -> tuple[str, str]:
        """Keeps a mount; its id and its content's hash. Equal mounts are one, or no image with a copy would be kept."""
        request = proto.MountGetOrCreateRequest(files=files)
        content_hash = _content_hash(request.files)
        mount_id = f"mo-{content_hash[:22]}"
        self._store.put("mount", mount_id, request.SerializeToString())
        return mount_id, content_hash

    def root(self, mount_ids: Sequence[str], copies: Sequence[tuple[str, str]]) -> Root:
        """The folder for a set of mounts, and of mounts copied into an image at a folder; made when first asked for."""
        key = (tuple(mount_ids), tuple(copies))
        if key not in self._roots:
            trees = [self._tree(mount_id, "/") for mount_id in mount_ids]
            trees = [self._tree(mount_id, target) for mount_id, target in copies] + trees
            self._roots[key] = self._make_root([tree for tree in trees if tree is not None])
        return self._roots[key]

    def _file(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise invalid(f"{sha256!r} is no SHA-256")
        return self._folder / "files" / sha256

    def _tree(self, mount_id: str, target: str) -> Path | None:
        """The mount as a tree of files below `target`; None for one without files, such as the client's own."""
        data = self._store.find("mount", mount_id)
        files = proto.MountGetOrCreateRequest.FromString(data).files if data else []
        if not files:
            return None
        key = hashlib.sha256(f"{target}\n{_content_hash(files)}".encode()).hexdigest()[:20]
        tree = self._folder / "mounts" / key
        if not tree.exists():
            draft = Path(tempfile.mkdtemp(dir=tree.parent))
            for item in files:
                path = draft / _inside(target) / _inside(item.filename)
                path.parent.mkdir(parents=True, exist_ok=True)
                _link(self.file(item.sha256_hex), path)
            _publish(draft, tree)
        return tree

    def _make_root(self, trees: list[Path]) -> Root:
        key = hashlib.sha256("\n".join(tree.name for tree in trees).encode()).hexdigest()[:20]
        root = self._folder / "roots" / key
        if not root.exists():
            draft = Path(tempfile.mkdtemp(dir=root.parent))
            _merge([tree for tree in trees if tree.is_dir()], draft)
            home = draft / _HOME
            if home.is_symlink():  # one mount only: still a folder of its own, for what user code writes there
                source = home.resolve()
                home.unlink()
                home.mkdir()
                _merge([source], home)
            home.mkdir(exist_ok=True)
            _publish(draft, root)
        home = root / _HOME
        return Root(home=home, binds=tuple(_binds(root, PurePosixPath("/"))), home_binds=tuple(_home_binds(home)))


def _content_hash(files: Iterable[Message]) -> str:
    lines = sorted(f"{item.filename}\0{item.sha256_hex}\n" for item in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _inside(path: str) -> PurePosixPath:
    """An absolute path of the container as a relative one that cannot leave its folder."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..", ".")]
    return PurePosixPath(*parts)


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _publish(draft: Path, target: Path) -> None:
    """Makes a finished folder appear; somebody else's equal one is as good."""
    draft.chmod(0o755)
    try:
        draft.rename(target)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)


def _merge(sources: list[Path], target: Path) -> None:
    """Fills a folder with links to the entries of others; folders that several have become folders, files the last."""
    entries: dict[str, list[Path]] = {}
    for source in sources:
        for entry in source.iterdir():
            if entry.name != "__pycache__":
                entries.setdefault(entry.name, []).append(entry)
    for name, found in entries.items():
        if len(found) > 1 and all(entry.is_dir() for entry in found):
            (target / name).mkdir()
            _merge(found, target / name)
        else:
            (target / name).symlink_to(found[-1].resolve())


def _binds(folder: Path, target: PurePosixPath) -> Iterable[tuple[str, str]]:
    """What must be mounted so that a tree appears over the host's: its topmost entries that the host lacks."""
    for entry in sorted(folder.iterdir()):
        place = target / entry.name
        if str(place) == f"/{_HOME}":
            continue
        if entry.is_dir() and Path(place).is_dir():
            yield from _binds(entry, place)
        else:
            yield str(entry.resolve()), str(place)


def _home_binds(home: Path) -> Iterable[tuple[str, str]]:
    """What must be mounted so that /root shows data that is copied there; code is imported, wherever it is.

    The host's /root stays what it is for who can see it: it may be the user's home, with all that is kept there.
    """
    place = PurePosixPath(f"/{_HOME}")
    if not os.access(place, os.X_OK):
        yield str(home), str(place)
        return
    for entry in sorted(home.iterdir()):
        target = place / entry.name
        if entry.suffix == ".py" or (entry / "__init__.py").exists():
            continue
        if entry.is_dir() and Path(target).is_dir():
            yield from _binds(entry, target)
        elif not Path(target).exists():
            yield str(entry.resolve()), str(target)
