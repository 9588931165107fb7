"""What each container sees of its volumes: the state at its last mount or reload, and what it wrote since.

Runs on: laptop. Owns when changes become visible: at a commit, asked for or in the background, to containers that start
or reload after it; and the one lock of a volume, under which its files change. What a killed container has not
committed is lost. Mounting itself is the fork server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from grpclib import GRPCError

from modalbatch.engines.local.containers.guest_isolation import Bind
from modalbatch.engines.local.schedules.clock import Clock
from modalbatch.engines.local.storage.layer import Layer, remove_tree
from modalbatch.engines.local.storage.snapshot import Snapshot, Snapshots
from modalbatch.engines.local.storage.volume import mounted_folder
from modalbatch.engines.local.wire import Message, refused

#: Mounts anew in a container: errno, 0 for success.
Remount = Callable[[Sequence[Bind]], Awaitable[int]]
T = TypeVar("T")

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
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_waiting = False
        _remove_aside(folder)

    async def open(self, container_id: str, mount: Message) -> Bind:
        """A view of a volume (`VolumeMount`) for a container that starts, and how to mount it."""

        async def open_view() -> Bind:
            sub_path = (mount.sub_path or "").strip("/")
            snapshot = await asyncio.to_thread(self._snapshots.take, self._committed(mount.volume_id, sub_path))
            view = View(
                volume_id=mount.volume_id,
                sub_path=sub_path,
                snapshot=snapshot,
                target=mount.mount_path.rstrip("/"),
                layer=None if mount.read_only else self._new_layer(snapshot),
            )
            self._views.setdefault(container_id, {})[mount.volume_id] = view
            return view.bind()

        self._commit_later()
        return await self.alone(mount.volume_id, open_view)

    async def close(self, container_id: str, *, commit: bool) -> None:
        """Forgets what a container that has ended saw. `commit`: after an orderly end what it wrote counts."""
        for volume_id in list(self._views.get(container_id, {})):

            async def close_view(volume_id: str = volume_id) -> None:
                view = self._views[container_id].pop(volume_id, None)
                if view is not None:
                    with contextlib.suppress(GRPCError):  # the volume is gone
                        await self._commit(view) if commit else None
                    await asyncio.to_thread(self._discard, view.snapshot, view.layer)

            await self.alone(volume_id, close_view)
        self._views.pop(container_id, None)

    async def commit(self, container_id: str, volume_id: str) -> None:
        """Shows everybody what a container has changed. Without a view the folder is shared: nothing to do.

        Raises: OSError when the disk is full, NOT_FOUND when the volume is gone.
        """

        async def commit_view() -> None:
            view = self._find(container_id, volume_id)
            if view is not None:
                await self._commit(view)

        await self.alone(volume_id, commit_view)

    async def reload(self, container_id: str, volume_id: str, remount: Remount) -> None:
        """Shows a container what everybody has committed; commits its own changes before.

        Raises: FAILED_PRECONDITION when it has files of the volume open.
        """

        async def reload_view() -> None:
            view = self._find(container_id, volume_id)
            if view is not None:
                await self._commit(view)
                await self._show(view, await self._newest(view), remount)

        await self.alone(volume_id, reload_view)

    async def renew(self, container_id: str, remount: Remount) -> None:
        """Shows a container what was committed while it stood ready without having touched user code."""
        for volume_id in list(self._views.get(container_id, {})):

            async def renew_view(volume_id: str = volume_id) -> None:
                view = self._find(container_id, volume_id)
                if view is not None and (newest := await self._newest(view)) is not view.snapshot:
                    await self._show(view, newest, remount)
                elif view is not None:
                    self._snapshots.drop(newest)

            await self.alone(volume_id, renew_view)

    async def alone(self, volume_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """Does something to a volume that nobody else touches meanwhile. Whoever asks may leave: it goes on to its end,
        since the thread that does it does so too.
        """

        async def run() -> T:
            async with self._lock(volume_id):
                return await work()

        task = asyncio.ensure_future(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def forget(self, volume_id: str) -> None:
        """The volume's folder is about to go, or to have another name. Order: within `alone`."""
        self._snapshots.forget(self._find_volume(volume_id))

    async def finish(self) -> None:
        """Ends everything. Order: after the last container has ended and was closed."""
        self._views.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.to_thread(remove_tree, self._folder)

    def _lock(self, volume_id: str) -> asyncio.Lock:
        return self._locks.setdefault(volume_id, asyncio.Lock())

    def _find(self, container_id: str, volume_id: str) -> View | None:
        return self._views.get(container_id, {}).get(volume_id)

    async def _newest(self, view: View) -> Snapshot:
        return await asyncio.to_thread(self._snapshots.take, self._committed(view.volume_id, view.sub_path))

    async def _show(self, view: View, snapshot: Snapshot, remount: Remount) -> None:
        """Mounts another state in the place of the present one, with nothing written over it."""
        old, old_layer = view.snapshot, view.layer
        view.snapshot, view.layer = snapshot, self._new_layer(snapshot) if old_layer else None
        failed = await remount([view.bind()])
        if failed:
            new_layer, view.snapshot, view.layer = view.layer, old, old_layer
            await asyncio.to_thread(self._discard, snapshot, new_layer)
            raise refused(_BUSY if failed == errno.EBUSY else f"the volume cannot be mounted anew (errno {failed})")
        # Other threads have gone on writing until the moment of the mount.
        await self._carry_over(view, old_layer)
        await asyncio.to_thread(self._discard, old, old_layer)

    def _committed(self, volume_id: str, sub_path: str) -> Path:
        return mounted_folder(self._find_volume(volume_id), sub_path)

    def _new_layer(self, snapshot: Snapshot) -> Layer:
        self._n_layers += 1
        return Layer(self._folder / "layers" / str(self._n_layers), snapshot.path)

    async def _commit(self, view: View, *, all_files: bool = True) -> None:
        await self._carry_over(view, view.layer, all_files=all_files)

    async def _carry_over(self, view: View, layer: Layer | None, *, all_files: bool = True) -> None:
        if layer is not None:
            drafts = self._folder / "drafts"
            drafts.mkdir(parents=True, exist_ok=True)
            target = self._committed(view.volume_id, view.sub_path)
            await asyncio.to_thread(layer.commit, target, drafts, all_files=all_files)

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
        task: asyncio.Task[object] = asyncio.ensure_future(self._commit_all())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _commit_all(self) -> None:
        try:
            for container_id, volume_id in [(key, name) for key, views in self._views.items() for name in views]:
                await self._commit_resting(container_id, volume_id)
            if not self._views:
                await asyncio.to_thread(self._snapshots.forget_unused)
        finally:
            self._is_waiting = False
            if self._views:
                self._commit_later()

    async def _commit_resting(self, container_id: str, volume_id: str) -> None:
        async def commit_view() -> None:
            view = self._find(container_id, volume_id)
            if view is not None:
                await self._commit(view, all_files=False)

        with contextlib.suppress(OSError, GRPCError):  # the disk is full, or the volume is gone: who commits hears
            await self.alone(volume_id, commit_view)


def _remove_aside(folder: Path) -> None:
    """Removes a folder in the background, and what is left of earlier ones; it can be made anew at once."""
    with contextlib.suppress(FileNotFoundError):
        folder.rename(folder.with_name(f"{folder.name}-old-{secrets.token_hex(4)}"))
    for old in folder.parent.glob(f"{folder.name}-old-*"):
        threading.Thread(target=remove_tree, args=(old,), daemon=True).start()
