"""What each container sees of its volumes: the state at its last mount or reload, and what it wrote since.

Runs on: laptop. Owns when changes become visible: at a commit, asked for or in the background, to containers that start
or reload after it. What a killed container has not committed is lost. Mounting itself is the fork server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpclib import GRPCError

from modalbatch.engines.local.containers.guest_isolation import Bind
from modalbatch.engines.local.schedules.clock import Clock
from modalbatch.engines.local.storage.layer import Layer, remove_tree
from modalbatch.engines.local.storage.snapshot import Snapshot, Snapshots
from modalbatch.engines.local.wire import Message, refused

#: Mounts anew in a container: errno, 0 for success.
Remount = Callable[[Sequence[Bind]], Awaitable[int]]

#: Seconds between two commits in the background. Modal says "every few seconds".
_COMMIT_EVERY_S = 5.0
#: The client looks for these words.
_BUSY = "there are open files preventing the operation"


@dataclass(slots=True, kw_only=True, eq=False)
class View:
    """One volume in one container."""

    volume_id: str
    #: The folder in the volume that is mounted; empty for all of it.
    sub_path: str
    snapshot: Snapshot
    target: str
    #: Takes what the container writes; None when it may not write.
    layer: Layer | None

    def bind(self) -> Bind:
        """How to mount it."""
        layer = str(self.layer.folder) if self.layer else ""
        return str(self.snapshot.path), self.target, self.layer is None, layer


class Views:
    """The views of all containers."""

    def __init__(self, folder: Path, find_volume: Callable[[str], Path], clock: Clock | None) -> None:
        """`folder` is of the volumes' file system, and ours alone: what an earlier engine left in it is removed.

        `find_volume`: the folder of a volume's committed files, which may be renamed at any time. `clock`: says when to
        commit in the background; without one nothing is.
        """
        self._folder = folder
        self._find_volume = find_volume
        self._clock = clock
        self._snapshots = Snapshots(folder / "snapshots")
        self._locks: dict[str, asyncio.Lock] = {}
        self._views: dict[str, dict[str, View]] = {}
        self._n_layers = 0
        self._background: asyncio.Task[None] | None = None
        self._is_waiting = False
        remove_tree(folder)

    async def open(self, container_id: str, mount: Message) -> Bind:
        """A view of a volume (`VolumeMount`) for a container that starts, and how to mount it."""
        sub_path = (mount.sub_path or "").strip("/")
        async with self._lock(mount.volume_id):
            snapshot = await asyncio.to_thread(self._snapshots.take, self._committed(mount.volume_id, sub_path))
            view = View(
                volume_id=mount.volume_id,
                sub_path=sub_path,
                snapshot=snapshot,
                target=mount.mount_path.rstrip("/"),
                layer=None if mount.read_only else self._new_layer(snapshot),
            )
        self._views.setdefault(container_id, {})[mount.volume_id] = view
        self._commit_later()
        return view.bind()

    async def close(self, container_id: str) -> None:
        """Forgets what a container that has ended saw, with all that it has not committed."""
        for volume_id in list(self._views.get(container_id, {})):
            async with self._locked(container_id, volume_id) as view:
                if view is not None:
                    del self._views[container_id][volume_id]
                    await asyncio.to_thread(self._discard, view.snapshot, view.layer)
        self._views.pop(container_id, None)

    async def commit(self, container_id: str, volume_id: str) -> None:
        """Shows everybody what a container has changed. Without a view the folder is shared: nothing to do."""
        async with self._locked(container_id, volume_id) as view:
            if view is not None:
                await self._commit(view)

    async def reload(self, container_id: str, volume_id: str, remount: Remount) -> None:
        """Shows a container what everybody has committed; commits its own changes before.

        Raises: FAILED_PRECONDITION when it has files of the volume open.
        """
        async with self._locked(container_id, volume_id) as view:
            if view is not None:
                await self._commit(view)
                await self._show(view, await self._newest(view), remount)

    async def renew(self, container_id: str, remount: Remount) -> None:
        """Shows a container what was committed while it stood ready without having touched user code."""
        for volume_id in list(self._views.get(container_id, {})):
            async with self._locked(container_id, volume_id) as view:
                if view is not None and (newest := await self._newest(view)) is not view.snapshot:
                    await self._show(view, newest, remount)
                elif view is not None:
                    self._snapshots.drop(newest)

    async def _show(self, view: View, snapshot: Snapshot, remount: Remount) -> None:
        """Mounts another state in the place of the present one, with nothing written over it."""
        old, old_layer = view.snapshot, view.layer
        view.snapshot, view.layer = snapshot, self._new_layer(snapshot) if old_layer else None
        failed = await remount([view.bind()])
        if failed:
            new_layer, view.snapshot, view.layer = view.layer, old, old_layer
            await asyncio.to_thread(self._discard, snapshot, new_layer)
            raise refused(_BUSY if failed == errno.EBUSY else f"the volume cannot be mounted anew (errno {failed})")
        await asyncio.to_thread(self._discard, old, old_layer)

    async def finish(self) -> None:
        """Ends the background's work. Order: after the last container."""
        self._views.clear()
        if self._background is not None:
            await self._background
        await asyncio.to_thread(remove_tree, self._folder)

    def _lock(self, volume_id: str) -> asyncio.Lock:
        return self._locks.setdefault(volume_id, asyncio.Lock())

    @contextlib.asynccontextmanager
    async def _locked(self, container_id: str, volume_id: str) -> AsyncIterator[View | None]:
        """A container's view of a volume, which nobody else of the volume's users changes meanwhile."""
        async with self._lock(volume_id):
            yield self._views.get(container_id, {}).get(volume_id)

    async def _newest(self, view: View) -> Snapshot:
        return await asyncio.to_thread(self._snapshots.take, self._committed(view.volume_id, view.sub_path))

    def _committed(self, volume_id: str, sub_path: str) -> Path:
        folder = self._find_volume(volume_id) / sub_path
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _new_layer(self, snapshot: Snapshot) -> Layer:
        self._n_layers += 1
        return Layer(self._folder / "layers" / str(self._n_layers), snapshot.path)

    async def _commit(self, view: View, *, all_files: bool = True) -> None:
        if view.layer is not None:
            drafts = self._folder / "drafts"
            drafts.mkdir(parents=True, exist_ok=True)
            target = self._committed(view.volume_id, view.sub_path)
            await asyncio.to_thread(view.layer.commit, target, drafts, all_files=all_files)

    def _discard(self, snapshot: Snapshot, layer: Layer | None) -> None:
        self._snapshots.drop(snapshot)
        if layer is not None:
            remove_tree(layer.folder)

    def _commit_later(self) -> None:
        """Has everything committed that comes to rest, again and again while there is a view."""
        if self._clock is not None and not self._is_waiting:
            self._is_waiting = True
            self._clock.call_later(_COMMIT_EVERY_S, self._begin_to_commit)

    def _begin_to_commit(self) -> None:
        if self._background is None or self._background.done():
            self._background = asyncio.ensure_future(self._commit_all())
        self._is_waiting = False
        if self._views:
            self._commit_later()

    async def _commit_all(self) -> None:
        for container_id, volume_id in [(key, name) for key, views in self._views.items() for name in views]:
            async with self._locked(container_id, volume_id) as view:
                with contextlib.suppress(OSError, GRPCError):  # the volume is gone, or the disk is full
                    if view is not None:
                        await self._commit(view, all_files=False)
