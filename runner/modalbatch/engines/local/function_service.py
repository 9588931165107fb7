"""RPCs about functions, classes, images, mounts and blobs: what an app is made of. Runs on: laptop.

Owns the checks that need the whole definition; refuses what would silently not happen here.
"""

from __future__ import annotations

from typing import Any

from modalbatch.engines.local.app_service import DEFAULT_ENVIRONMENT
from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.function import App, Function
from modalbatch.engines.local.wire import (
    BUILDER_VERSION,
    SUCCESS,
    Message,
    Peer,
    Result,
    invalid,
    message,
    mint_id,
    not_found,
    proto,
    unsupported,
)

#: Limits that Modal's server sets and its client does not check (`studies/modal-facts.md`).
_MAX_TIMEOUT_S = 86_400
_MAX_GPUS = 8
_BUCKET_HINT = (
    "a job of modalbatch reads and writes buckets directly: `source: s3://…`, `sink: s3://…`; other code can with boto3"
)


class FunctionService:
    """Functions and classes: create, look up, bind."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def FunctionPrecreate(self, request: Message, peer: Peer) -> Message:
        """An id for a function whose definition follows, so that others can refer to it."""
        function = self._engine.find_function(request.existing_function_id)
        if function is None:
            definition = message(
                proto.Function,
                function_name=request.function_name,
                function_type=request.function_type,
                function_schema=request.function_schema,
                method_definitions=request.method_definitions,
                supported_input_formats=request.supported_input_formats,
                supported_output_formats=request.supported_output_formats,
            )
            function = self._engine.add_function(
                self._engine.app(request.app_id), definition, request.existing_function_id
            )
        return proto.FunctionPrecreateResponse(function_id=function.id, handle_metadata=function.handle())

    async def FunctionCreate(self, request: Message, peer: Peer) -> Message:
        """Takes a definition; answers when its image's environment stands."""
        app = self._engine.app(request.app_id)
        definition = proto.Function()
        ranked = request.function_data.ranked_functions
        definition.CopyFrom(ranked[0].function if ranked else request.function)
        _check(app, definition, request)
        for ignored in self._engine.provisioner.spec(definition.image_id).ignored:
            app.tell_once(f"not run by the local engine: {ignored}")
        await self._engine.provisioner.environment(definition.image_id, self._engine.secret, app.tell_once)
        function = self._engine.find_function(request.existing_function_id)
        if function is None:
            function = self._engine.add_function(app, definition, request.existing_function_id)
        function.stage(definition)
        shown = Function(id=function.id, app=app, definition=definition)
        return message(
            proto.FunctionCreateResponse,
            function_id=function.id,
            function=definition,
            handle_metadata=shown.handle(),
            function_data=shown.data(),
        )

    async def FunctionGet(self, request: Message, peer: Peer) -> Message:
        """A function of a deployed app, by name."""
        function = self._engine.function(self._look_up(request, "function"))
        return _shown(proto.FunctionGetResponse, function)

    async def FunctionGetById(self, request: Message, peer: Peer) -> Message:
        """A function by id."""
        function = self._engine.function(request.function_id)
        return _shown(proto.FunctionGetByIdResponse, function)

    async def ClassCreate(self, request: Message, peer: Peer) -> Message:
        """An id for a class; its methods live on its function."""
        class_id = request.existing_class_id or mint_id("cs")
        return proto.ClassCreateResponse(class_id=class_id, handle_metadata=proto.ClassHandleMetadata())

    async def ClassGet(self, request: Message, peer: Peer) -> Message:
        """A class of a deployed app, by name."""
        class_id = self._look_up(request, "class")
        return proto.ClassGetResponse(class_id=class_id, handle_metadata=proto.ClassHandleMetadata())

    def _look_up(self, request: Message, kind: str) -> str:
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        app_id = self._engine.store.resolve("app", environment, request.app_name)
        app = self._engine.apps.get(app_id or "")
        if app is None:
            raise not_found(f"app `{request.app_name}` is not deployed in environment `{environment}`")
        object_id = (app.function_ids if kind == "function" else app.class_ids).get(request.object_tag)
        if object_id is None:
            raise not_found(f"app `{request.app_name}` has no {kind} `{request.object_tag}`")
        return object_id

    async def FunctionBindParams(self, request: Message, peer: Peer) -> Message:
        """A class with parameters or a function with options."""
        base = self._engine.function(request.function_id)
        bound = self._engine.bind(base, request)
        return proto.FunctionBindParamsResponse(bound_function_id=bound.id, handle_metadata=bound.handle())

    async def FunctionGetCurrentStats(self, request: Message, peer: Peer) -> Message:
        """How busy a function is."""
        pool = self._engine.function(request.function_id).pool
        return message(
            proto.FunctionStats,
            backlog=pool.n_pending,
            num_total_tasks=len(pool.containers),
            num_running_inputs=pool.n_running,
        )

    async def FunctionUpdateSchedulingParams(self, request: Message, peer: Peer) -> Message:
        """Changes a function's autoscaling until its next deployment."""
        function = self._engine.function(request.function_id)
        function.definition.autoscaler_settings.MergeFrom(request.settings)
        function.pool.keep_warm()
        function.pool.pump()
        return proto.FunctionUpdateSchedulingParamsResponse()


def _shown(kind: Any, function: Function) -> Message:
    return message(kind, function_id=function.id, handle_metadata=function.handle(), function=function.data())


def _check(app: App, definition: Message, request: Message) -> None:
    """Refuses what cannot work here, and says once what is only ignored."""
    if definition.webhook_config.type or definition.is_server:
        app.tell_once(f"web endpoint `{definition.function_name}` is not served by the local engine")
    name = definition.function_name
    if definition.cloud_bucket_mounts or definition.s3_mounts:
        raise unsupported(f"a CloudBucketMount (`{name}`)", _BUCKET_HINT)
    if definition.shared_volume_mounts:
        raise unsupported(f"a NetworkFileSystem (`{name}`)", "use a modal.Volume")
    if not 1 <= definition.timeout_secs <= _MAX_TIMEOUT_S:
        raise invalid(f"timeout of `{definition.function_name}` must be between 1 and {_MAX_TIMEOUT_S} seconds")
    gpu = definition.resources.gpu_config
    if gpu.count > _MAX_GPUS:
        raise invalid(f"gpu of `{definition.function_name}` must not be more than {_MAX_GPUS} in one container")
    if gpu.gpu_type or gpu.count:
        app.tell_once(f"gpu {gpu.gpu_type or 'request'} is accepted and ignored: containers see what this machine has")
    if request.schedule.ByteSize() or definition.schedule.ByteSize():
        app.tell_once("schedules do not fire on the local engine")


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
