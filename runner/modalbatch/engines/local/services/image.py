"""RPCs about images, mounts and blobs: content on its way to containers. Runs on: laptop.

Owns the translation only; nothing is built here.
"""

from __future__ import annotations

import time
from typing import Any

from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.services.app import Send
from modalbatch.engines.local.wire import (
    BUILDER_VERSION,
    LONG_POLL_S,
    SUCCESS,
    Message,
    Peer,
    Result,
    message,
    mint_id,
    proto,
)


class ImageService:
    """Images, mounts and blobs: content on its way to containers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ImageGetOrCreate(self, request: Message, peer: Peer) -> Message:
        """Takes a layer. Its packages are installed when a function uses it: a layer in between may never be used."""
        image_id = self._engine.provisioner.add_image(request.image)
        result = Result(status=SUCCESS)
        if request.image.build_function.definition:
            image_id = await self._engine.builder.image(image_id, request)
            if self._engine.builder.find(image_id) is not None:
                result = Result()  # the client asks with `ImageJoinStreaming`
        metadata = self._metadata(image_id, request.builder_version)
        return proto.ImageGetOrCreateResponse(image_id=image_id, result=result, metadata=metadata)

    async def ImageJoinStreaming(self, request: Message, peer: Peer, send: Send) -> None:
        """Streams what the build of an image prints, then its result."""
        build = self._engine.builder.find(request.image_id)
        log = self._engine.builder.log(request.image_id)
        position = int(request.last_entry_id or 0)
        end = time.monotonic() + min(request.timeout, LONG_POLL_S)
        while build is not None or request.include_logs_for_finished:
            is_done = build is None or bool(build.result.status)
            for batch in log.read(position):
                position = int(batch.entry_id)
                await send(proto.ImageJoinStreamingResponse(task_logs=batch.items, entry_id=batch.entry_id))
            if is_done:
                break
            if (left_s := end - time.monotonic()) <= 0:
                return
            await log.wait(left_s)
        result = build.result if build is not None else Result(status=SUCCESS)
        metadata = self._metadata(request.image_id)
        await send(proto.ImageJoinStreamingResponse(result=result, metadata=metadata, eof=True))

    def _metadata(self, image_id: str, builder_version: str = "") -> Message:
        return message(
            proto.ImageMetadata,
            image_builder_version=builder_version or BUILDER_VERSION,
            python_version_info=self._engine.provisioner.python_version(image_id) or None,
        )

    async def ImageFromId(self, request: Message, peer: Peer) -> Message:
        """An image that was made here before."""
        return proto.ImageFromIdResponse(image_id=request.image_id, metadata=self._metadata(request.image_id))

    async def MountGetOrCreate(self, request: Message, peer: Peer) -> Message:
        """Takes a mount's list of files; one that Modal publishes (its client, a Python) has none here."""
        if request.object_creation_type == proto.OBJECT_CREATION_TYPE_UNSPECIFIED:
            mount_id = self._engine.store.resolve("mount-name", "", request.deployment_name)
            if mount_id is None:
                mount_id = mint_id("mo")
                self._engine.store.bind("mount-name", "", request.deployment_name, mount_id)
                self._engine.store.put("mount-name", f"{mount_id}-name", request.deployment_name.encode())
            checksum = "0" * 64
        else:
            mount_id, checksum = self._engine.mounts.add(request.files)
        metadata = message(proto.MountHandleMetadata, content_checksum_sha256_hex=checksum)
        return proto.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    async def MountBatchedCheckExistence(self, request: Message, peer: Peer) -> Message:
        """Which contents must be sent."""
        missing = [sha for sha in request.sha256_hex_hashes if not self._engine.mounts.has_file(sha)]
        return proto.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(self, request: Message, peer: Peer) -> Message:
        """Takes a content, or says whether it is here."""
        kind = request.WhichOneof("data_oneof")
        if kind == "data":
            self._engine.mounts.put_file(request.sha256_hex, request.data)
        elif kind == "data_blob_id":
            self._engine.mounts.put_file(request.sha256_hex, self._engine.blobs.path(request.data_blob_id))
        return proto.MountPutFileResponse(exists=self._engine.mounts.has_file(request.sha256_hex))

    async def BlobCreate(self, request: Message, peer: Peer) -> Message:
        """An address to upload to."""
        blob_id = mint_id("bl")
        url = await self._engine.blobs.blob_url(blob_id)
        known: Any = proto.BlobCreateResponse.DESCRIPTOR.fields_by_name
        if "upload_urls" in known:
            return proto.BlobCreateResponse(blob_ids=[blob_id], upload_urls=proto.UploadUrlList(items=[url]))
        return proto.BlobCreateResponse(blob_id=blob_id, upload_url=url)

    async def BlobGet(self, request: Message, peer: Peer) -> Message:
        """An address to download from."""
        return proto.BlobGetResponse(download_url=await self._engine.blobs.blob_url(request.blob_id))
