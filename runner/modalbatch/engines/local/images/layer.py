"""What build functions have written into images, and how a container comes to see it. Runs on: laptop.

Owns the folder `layers` of the home: one folder per image that `Image.run_function` has made, in it one per place. A
place is a folder of the host that containers of such an image see through an overlay: what they write goes elsewhere.
Mounts nothing itself: that is done in the container (`guest_isolation.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from modalbatch.engines.local.storage.layer import remove_tree

#: Where Modal's containers start, and where their code is.
HOME = "/root"
#: Folders of the kernel and of running services: seen as they are.
_LIVE = ("/dev", "/proc", "/run", "/sys")
_DRAFT, _SCRATCH = ".draft", ".scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What decides the places of one container."""

    container_id: str
    #: Images whose build functions have run, base first.
    layer_ids: Sequence[str]
    #: The image that this container builds; empty for any other container.
    build_id: str
    #: The function's code.
    code: Path
    #: The image's Python environment.
    environment: Path
    #: Variables of the container.
    environ: Mapping[str, str]


class LayerStore:
    """Layers of one home, and what containers write over them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in (_DRAFT, _SCRATCH):
            for left in folder.glob(f"*{suffix}"):  # of an engine that was killed
                remove_tree(left)

    def has(self, image_id: str) -> bool:
        """Whether a build function has run; if it has, all that it wrote is here."""
        return (self._folder / image_id).is_dir()

    def publish(self, image_id: str) -> None:
        """Keeps what a build has written."""
        draft = self._folder / f"{image_id}{_DRAFT}"
        (draft / "files").mkdir(parents=True, exist_ok=True)  # it may have run without overlays
        for place in (draft / "files").iterdir():
            with contextlib.suppress(OSError):
                place.rmdir()  # nothing was written there
        (draft / "files").rename(self._folder / image_id)
        remove_tree(draft)

    def discard(self, image_id: str) -> None:
        """Forgets what a build that failed has written."""
        remove_tree(self._folder / f"{image_id}{_DRAFT}")

    async def release(self, container_id: str) -> None:
        """Forgets what a container has written."""
        folder = self._folder / f"{container_id}{_SCRATCH}"
        if folder.exists():
            await asyncio.to_thread(remove_tree, folder)

    def plan(self, scene: Scene, real: Sequence[Path]) -> dict[str, object]:
        """What the container is to mount; makes the folders for what it writes. `real` are folders without overlay."""
        for image_id in scene.layer_ids:
            os.utime(self._folder / image_id)  # when it was last used: `prune.py` asks
        name = f"{scene.build_id}{_DRAFT}" if scene.build_id else f"{scene.container_id}{_SCRATCH}"
        folder = self._folder / name
        skeleton = folder / "skeleton"
        _copy_skeleton(skeleton)
        empty = folder / "empty"
        empty.mkdir()
        hosts = {str(path): [path] for path in _places(scene)}
        hosts |= {"/": [skeleton], HOME: [Path(HOME)] if os.access(HOME, os.R_OK | os.X_OK) else []}
        overlays, below = [], []
        for target in sorted(hosts):
            plain = quote(target, safe="")
            lowers = [self._folder / image_id / plain for image_id in reversed(scene.layer_ids)]
            lowers = [scene.code] * (target == HOME) + [lower for lower in lowers if lower.is_dir()]
            if lowers and hosts[target] and self._folder.is_relative_to(target) and target != "/":
                # One lower folder must not be within another. Seen through an overlay of their own they are not.
                mounted = folder / "below" / plain
                mounted.mkdir(parents=True)
                below.append((str(mounted), f"userxattr,lowerdir={_join([*lowers, empty])}"))
                lowers = [mounted]
            lowers = [*lowers, *hosts[target]] or [empty]
            upper, work = folder / "files" / plain, folder / "work" / plain
            for path in (upper, work):
                path.mkdir(parents=True)
            upper.chmod(lowers[-1].stat().st_mode & 0o7777 | 0o700)
            options = f"userxattr,lowerdir={_join(lowers)},upperdir={_join([upper])},workdir={_join([work])}"
            overlays.append((target, options))
        return {
            "overlays": overlays,
            "below": below,
            "real": [str(path) for path in real],
            "tells": bool(scene.build_id),
        }


def _places(scene: Scene) -> list[Path]:
    """Folders whose content a container may change, for itself only."""
    tops = [Path(entry.path) for entry in os.scandir("/") if entry.is_dir() and not entry.is_symlink()]
    home = Path(scene.environ.get("HOME", "/"))
    # On their own: they may be mounts, and in folders of other users nothing can be copied up.
    own = [path for path in (home, scene.environment) if path.is_dir() and path != Path("/")]
    return [path for path in tops if str(path) not in _LIVE] + own


def _copy_skeleton(folder: Path) -> None:
    """Makes an empty entry for every entry of /, to mount over."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HOME.strip("/")).mkdir(exist_ok=True)
    for entry in os.scandir("/"):
        place = folder / entry.name
        if place.exists() or place.is_symlink():
            continue
        if entry.is_symlink():
            place.symlink_to(Path(entry.path).readlink())
        elif entry.is_dir():
            place.mkdir()
        else:
            place.touch()


def _join(folders: Sequence[Path]) -> str:
    """Folders as an option of an overlay."""
    return ":".join(re.sub(r"([\\:,])", r"\\\1", str(folder)) for folder in folders)
