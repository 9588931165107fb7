"""RPCs about images, mounts and blobs: content on its way to containers. Runs on: laptop.

Owns the translation only; nothing is built here.
"""

from __future__ import annotations

from typing import Any

from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.wire import (
    BUILDER_VERSION,
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
        metadata = message(
            proto.ImageMetadata,
            image_builder_version=request.builder_version or BUILDER_VERSION,
            python_version_info=self._engine.provisioner.python_version(image_id) or None,
        )
        return proto.ImageGetOrCreateResponse(image_id=image_id, result=Result(status=SUCCESS), metadata=metadata)

    async def ImageFromId(self, request: Message, peer: Peer) -> Message:
        """An image that was made here before."""
        self._engine.provisioner.spec(request.image_id)
        metadata = message(proto.ImageMetadata, image_builder_version=BUILDER_VERSION)
        return proto.ImageFromIdResponse(image_id=request.image_id, metadata=metadata)

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
            mount_id = mint_id("mo")
            checksum = self._engine.mounts.add(mount_id, request.files)
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
