"""RPCs about volumes. Runs on: laptop. Owns their names and the two ways of uploading; files are `volume.py`'s."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modalbatch.engines.local.containers.container import Container
from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.images.provision import remove_quietly
from modalbatch.engines.local.name import check_name
from modalbatch.engines.local.services.app import DEFAULT_ENVIRONMENT, Send
from modalbatch.engines.local.services.object import get_or_create, named_objects
from modalbatch.engines.local.storage import volume
from modalbatch.engines.local.wire import Message, Peer, message, not_found, proto, refused

#: How long an uploaded block is kept after it was last named.
_BLOCKS_KEPT_S = 600.0
#: Entries in one message of a listing.
_LIST_BATCH = 500


class VolumeService:
    """Volumes: names, files, uploads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: When uploads have named a block last, on the engine's steady clock.
        self._named_at: dict[Path, float] = {}

    async def VolumeGetOrCreate(self, request: Message, peer: Peer) -> Message:
        """A volume by name, or a nameless one that lives as long as the engine."""
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        name, version = request.deployment_name, request.version or proto.VOLUME_FS_VERSION_V1

        def create(volume_id: str, named: bool) -> None:
            self._engine.volumes.add(volume_id, environment=environment, name=name if named else "", version=version)

        volume_id = get_or_create(self._engine.store, "volume", "vo", request, create)
        metadata = self._engine.volumes.metadata(volume_id)
        return message(
            proto.VolumeGetOrCreateResponse, volume_id=volume_id, version=metadata.version, metadata=metadata
        )

    async def VolumeGetById(self, request: Message, peer: Peer) -> Message:
        """A volume by id."""
        metadata = self._engine.volumes.metadata(request.volume_id)
        return message(proto.VolumeGetByIdResponse, volume_id=request.volume_id, metadata=metadata)

    async def VolumeList(self, request: Message, peer: Peer) -> Message:
        """The named volumes of an environment."""
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        items = [
            message(
                proto.VolumeListItem,
                label=name,
                volume_id=volume_id,
                created_at=created_at,
                metadata=self._engine.volumes.metadata(volume_id),
            )
            for name, volume_id, created_at in named_objects(self._engine.store, "volume", request)
        ]
        return message(proto.VolumeListResponse, items=items, environment_name=environment)

    async def VolumeDelete(self, request: Message, peer: Peer) -> None:
        """Removes a volume and its files."""
        folder = self._engine.volumes.folder(request.volume_id)

        async def delete() -> None:
            self._engine.views.forget(request.volume_id)
            self._engine.store.drop(request.volume_id)
            await asyncio.to_thread(shutil.rmtree, folder)

        await self._engine.views.alone(request.volume_id, delete)

    async def VolumeRename(self, request: Message, peer: Peer) -> None:
        """Gives a volume and its folder another name."""
        check_name("volume", request.name)

        async def rename() -> None:
            self._engine.views.forget(request.volume_id)
            self._engine.volumes.rename(request.volume_id, request.name)

        await self._engine.views.alone(request.volume_id, rename)

    async def _change(self, volume_id: str, change: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Changes a volume's files in a thread, while nobody else touches them."""
        await self._engine.views.alone(volume_id, lambda: asyncio.to_thread(change, *args, **kwargs))

    async def VolumeCommit(self, request: Message, peer: Peer) -> Message:
        """Shows everybody what a container has written."""
        container = self._user(request.volume_id, peer)
        try:
            await self._engine.views.commit(container.id, request.volume_id)
        except OSError as error:
            raise refused(f"the volume cannot be committed: {error}") from error
        return message(proto.VolumeCommitResponse, skip_reload=True)

    async def VolumeReload(self, request: Message, peer: Peer) -> None:
        """Shows a container what everybody has committed, its own changes included."""
        container = self._user(request.volume_id, peer)
        assert container.remount is not None
        await self._engine.views.reload(container.id, request.volume_id, container.remount)

    def _user(self, volume_id: str, peer: Peer) -> Container:
        """The container that asks. Raises: an error when it does not mount the volume."""
        container = self._engine.container(peer.container_id) if peer.container_id else None
        mounts = container.function.definition.volume_mounts if container else []
        if container is None or volume_id not in [mount.volume_id for mount in mounts]:
            name = self._engine.volumes.metadata(volume_id).name or volume_id
            raise refused(f"volume `{name}` is not mounted here: only containers that mount it commit and reload it")
        return container

    async def VolumeHeartbeat(self, request: Message, peer: Peer) -> None:
        """A nameless volume lives as long as the engine."""

    async def VolumeListFiles(self, request: Message, peer: Peer, send: Send) -> None:
        """Lists files, version 1."""
        await self._list(request, send, proto.VolumeListFilesResponse)

    async def VolumeListFiles2(self, request: Message, peer: Peer, send: Send) -> None:
        """Lists files, version 2."""
        await self._list(request, send, proto.VolumeListFiles2Response)

    async def _list(self, request: Message, send: Send, response_class: type) -> None:
        folder = self._engine.volumes.folder(request.volume_id)
        batch = []
        for entry in volume.list_files(folder, request.path, recursive=request.recursive):
            batch.append(entry)
            if len(batch) == _LIST_BATCH:
                await send(response_class(entries=batch))
                batch = []
        await send(response_class(entries=batch))

    async def VolumeGetFile2(self, request: Message, peer: Peer) -> Message:
        """Addresses of a file's blocks, within a range."""
        folder = self._engine.volumes.folder(request.volume_id)
        path = volume.existing(folder, request.path)
        if path.is_dir():
            raise not_found(f"{request.path!r} is a folder")
        size = path.stat().st_size
        start = min(request.start, size)
        length = min(request.len or size, size - start)
        urls, position = [], start
        while position < start + length:
            end = min(start + length, (position // volume.BLOCK_BYTES + 1) * volume.BLOCK_BYTES)
            urls.append(await self._engine.blobs.range_url(request.volume_id, request.path, position, end - position))
            position = end
        return proto.VolumeGetFile2Response(get_urls=urls, size=size, start=start, len=length)

    async def VolumePutFiles2(self, request: Message, peer: Peer) -> Message:
        """Writes files once all their blocks are here; else says where to send those that miss."""
        folder = self._engine.volumes.folder(request.volume_id)
        if request.disallow_overwrite_existing_files:
            volume.refuse_overwriting(folder, [item.path for item in request.files])
        missing = []
        for file_number, item in enumerate(request.files):
            for block_number, block in enumerate(item.blocks):
                path = self._block(block)
                if not path.exists():
                    missing.append(
                        proto.VolumePutFiles2Response.MissingBlock(
                            file_index=file_number,
                            block_index=block_number,
                            put_url=await self._engine.blobs.blob_url(path.name),
                        )
                    )
        if not missing:
            for item in request.files:
                pieces = [self._block(block) for block in item.blocks]
                await self._change(
                    request.volume_id, volume.write_file, folder, item.path, pieces, size=item.size, mode=item.mode
                )
            self._engine.clock.call_later(_BLOCKS_KEPT_S, self._drop_blocks)
        return proto.VolumePutFiles2Response(missing_blocks=missing)

    def _block(self, block: Message) -> Path:
        """The file of a block, which stays for a while: another upload may count on it."""
        path: Path = self._engine.blobs.path(f"block-{block.contents_sha256.hex()}")
        self._named_at[path] = self._engine.clock.monotonic()
        return path

    def _drop_blocks(self) -> None:
        before = self._engine.clock.monotonic() - _BLOCKS_KEPT_S
        for path in [path for path, named_at in self._named_at.items() if named_at <= before]:
            del self._named_at[path]
            remove_quietly(path)

    async def VolumePutFiles(self, request: Message, peer: Peer) -> None:
        """Writes files whose contents were uploaded like a mount's."""
        folder = self._engine.volumes.folder(request.volume_id)
        if request.disallow_overwrite_existing_files:
            volume.refuse_overwriting(folder, [item.filename for item in request.files])
        for item in request.files:
            source: Path = self._engine.mounts.file(item.sha256_hex)
            facts = {"size": source.stat().st_size, "mode": item.mode}
            await self._change(request.volume_id, volume.write_file, folder, item.filename, [source], **facts)

    async def VolumeRemoveFile(self, request: Message, peer: Peer) -> None:
        """Removes a file or, if asked to, a folder."""
        folder = self._engine.volumes.folder(request.volume_id)
        await self._change(request.volume_id, volume.remove_file, folder, request.path, recursive=request.recursive)

    VolumeRemoveFile2 = VolumeRemoveFile

    async def VolumeCopyFiles(self, request: Message, peer: Peer) -> None:
        """Copies files within a volume."""
        folder = self._engine.volumes.folder(request.volume_id)
        sources = list(request.src_paths)
        await self._change(
            request.volume_id, volume.copy_files, folder, sources, request.dst_path, recursive=request.recursive
        )

    VolumeCopyFiles2 = VolumeCopyFiles
