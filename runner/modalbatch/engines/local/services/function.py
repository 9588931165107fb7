"""RPCs about functions and classes: what an app is made of. Runs on: laptop.

Owns the checks that need the whole definition; refuses what would silently not happen here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.function import App, Function, server_ports, web_parts
from modalbatch.engines.local.schedules.schedule import Cycle
from modalbatch.engines.local.services.app import DEFAULT_ENVIRONMENT
from modalbatch.engines.local.wire import (
    FAILURE,
    SUCCESS,
    TIMEOUT,
    Message,
    Peer,
    invalid,
    message,
    mint_id,
    not_found,
    proto,
    unsupported,
)
from modalbatch.gpu import GPUS, canonical_name

#: Limits that Modal's server sets and its client does not check (`studies/modal-facts.md`).
_MAX_TIMEOUT_S = 86_400
_MAX_DELAY_MS = 60_000
#: More are accepted by the client, and perhaps refused by Modal's server.
_SURE_RETRIES = 10
_BUCKET_HINT = (
    "a job of modalbatch reads and writes buckets directly: `source: s3://…`, `sink: s3://…`; other code can with boto3"
)
_NO_ETH0 = (
    "Modal's runtime looks for it at the network interface eth0, which is not here; asgi_app and wsgi_app need none"
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
        self._engine.web.open(function, definition)
        await self._engine.web.start()
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
        function_ids, class_ids = self._engine.deployments.ids(app, getattr(request, "app_version", 0))
        object_id = (function_ids if kind == "function" else class_ids).get(request.object_tag)
        if object_id is None:
            raise not_found(f"app `{request.app_name}` has no {kind} `{request.object_tag}`")
        return object_id

    async def FunctionBindParams(self, request: Message, peer: Peer) -> Message:
        """A class with parameters or a function with options."""
        base = self._engine.function(request.function_id)
        _check_gpu(base.name, request.function_options.resources.gpu_config)
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
            input_headroom=pool.n_free,
        )

    async def FunctionGetTimeRangeStats(self, request: Message, peer: Peer) -> Message:
        """What has happened to a function, as far as this engine has seen it; without percentiles."""
        function = self._engine.function(request.function_id)
        if request.container_id:
            raise unsupported("statistics of one container")
        variants = [f for f in function.app.functions.values() if f.name == function.name]
        counted = variants if request.rollup else [function]
        span = request.since.ToNanoseconds() / 1e9, request.until.ToNanoseconds() / 1e9

        def total(what: Any) -> int:
            return sum(variant.tally.total(what, *span) for variant in counted)

        containers = [
            container for variant in counted for container in variant.pool.containers if not container.is_held
        ]
        return message(
            proto.FunctionGetTimeRangeStatsResponse,
            since=request.since,
            until=request.until,
            input_success_count=total(SUCCESS),
            input_failure_count=total(FAILURE),
            input_timeout_count=total(TIMEOUT),
            input_running_at_end_count=sum(variant.pool.n_running for variant in counted),
            container_started_count=total("start"),
            container_error_count=total("crash"),
            container_creating_at_end_count=sum(not container.is_ready for container in containers),
            container_total_count=len(containers),
            variant_count=len(variants),
        )

    async def FunctionGetSchedulingParams(self, request: Message, peer: Peer) -> Message:
        """A function's autoscaling as it is now."""
        settings = self._engine.function(request.function_id).definition.autoscaler_settings
        configuration = message(proto.AutoscalerConfiguration, settings=settings)
        return message(proto.FunctionGetSchedulingParamsResponse, autoscaler_configuration=configuration)

    async def FunctionUpdateSchedulingParams(self, request: Message, peer: Peer) -> Message:
        """Changes a function's autoscaling until its next deployment."""
        function = self._engine.function(request.function_id)
        function.definition.autoscaler_settings.MergeFrom(request.settings)
        function.pool.keep_warm()
        function.pool.pump()
        settings = function.definition.autoscaler_settings
        return message(proto.FunctionUpdateSchedulingParamsResponse, current_settings=settings)


def _shown(kind: Any, function: Function) -> Message:
    return message(kind, function_id=function.id, handle_metadata=function.handle(), function=function.data())


def _check(app: App, definition: Message, request: Message) -> None:
    """Refuses what cannot work here, and says once what is only ignored."""
    name = definition.function_name
    if definition.is_server:
        app.tell_once(f"server `{name}` is not served by the local engine")
    _check_web(app, definition)
    if definition.cloud_bucket_mounts or definition.s3_mounts:
        raise unsupported(f"a CloudBucketMount (`{name}`)", _BUCKET_HINT)
    if definition.shared_volume_mounts:
        raise unsupported(f"a NetworkFileSystem (`{name}`)", "use a modal.Volume")
    if not 1 <= definition.timeout_secs <= _MAX_TIMEOUT_S:
        raise invalid(f"timeout of `{definition.function_name}` must be between 1 and {_MAX_TIMEOUT_S} seconds")
    for one in [item.function for item in request.function_data.ranked_functions] or [definition]:
        _check_gpu(definition.function_name, one.resources.gpu_config)
    _check_retries(app, definition)
    gpu = definition.resources.gpu_config
    if gpu.gpu_type or gpu.count:
        app.tell_once(f"gpu {gpu.gpu_type or 'request'} is accepted and ignored: containers see what this machine has")
    if request.schedule.WhichOneof("schedule_oneof"):  # newer clients say it in the definition
        definition.schedule.CopyFrom(request.schedule)
    if definition.schedule.WhichOneof("schedule_oneof"):
        _check_schedule(definition)


def _check_web(app: App, definition: Message) -> None:
    """Says what is different on a machine whose network all containers share."""
    name = definition.function_name.removesuffix(".*")
    for port in server_ports(definition):
        if not Path("/sys/class/net/eth0").exists():
            app.tell_once(f"web_server `{name}` cannot start: {_NO_ETH0}")
        app.tell_once(f"`{name}` listens on port {port} of this machine, on every network: one container at a time")
    if any(part.webhook_config.custom_domains for _, part in web_parts(definition)):
        app.tell_once(f"custom domains of `{name}` are ignored")


def _check_gpu(name: str, gpu: Message) -> None:
    """Refuses what no machine of Modal's has."""
    if not gpu.gpu_type and not gpu.count:
        return
    kind = canonical_name(gpu.gpu_type)
    if kind is None:
        raise invalid(f"gpu of `{name}`: Modal has no `{gpu.gpu_type}`\nhint: one of {', '.join(GPUS)}")
    if not 1 <= gpu.count <= GPUS[kind]:
        raise invalid(f"gpu of `{name}`: a container has 1 to {GPUS[kind]} of `{kind}`, not {gpu.count}")


def _check_retries(app: App, definition: Message) -> None:
    policy, name = definition.retry_policy, definition.function_name
    if not policy.retries:
        return
    if not 1.0 <= policy.backoff_coefficient <= 10.0:
        raise invalid(f"retries of `{name}`: backoff_coefficient must be between 1 and 10")
    if policy.initial_delay_ms > _MAX_DELAY_MS or not 1_000 <= policy.max_delay_ms <= _MAX_DELAY_MS:
        raise invalid(f"retries of `{name}`: initial_delay must be 0 to 60 seconds, max_delay 1 to 60 seconds")
    if policy.retries > _SURE_RETRIES:
        app.tell_once(f"`{name}` has {policy.retries} retries: Modal may accept no more than {_SURE_RETRIES}")


def _check_schedule(definition: Message) -> None:
    try:
        Cycle(definition.schedule)
    except (ValueError, OverflowError) as error:
        raise invalid(f"schedule of `{definition.function_name}`: {error}") from error
