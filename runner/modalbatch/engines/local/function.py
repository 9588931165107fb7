"""Apps, and the functions that belong to them. Runs on: laptop.

Owns their data and its form in the store; knows nothing of containers beyond the pool that hangs on a function.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modalbatch.engines.local.calls.tally import Tally
from modalbatch.engines.local.containers.log import AppLog
from modalbatch.engines.local.wire import Message, message, proto

if TYPE_CHECKING:
    from modalbatch.engines.local.containers.pool import Pool

LIVE_STATES = (
    proto.APP_STATE_INITIALIZING,
    proto.APP_STATE_EPHEMERAL,
    proto.APP_STATE_DETACHED,
    proto.APP_STATE_DETACHED_DISCONNECTED,
    proto.APP_STATE_DEPLOYED,
)
_SAVED = (
    "id",
    "environment",
    "name",
    "state",
    "tags",
    "created_at",
    "deployed_at",
    "stopped_at",
    "version",
    "function_ids",
    "class_ids",
)


@dataclass(slots=True, kw_only=True, eq=False)
class App:
    """One app: a run of a client, or a deployment."""

    id: str
    environment: str
    name: str
    log: AppLog
    #: An APP_STATE value.
    state: int = proto.APP_STATE_INITIALIZING
    tags: dict[str, str] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)
    deployed_at: float = 0.0
    stopped_at: float = 0.0
    #: Number of deployments.
    version: int = 0
    function_ids: dict[str, str] = field(default_factory=dict)
    class_ids: dict[str, str] = field(default_factory=dict)
    #: Every function of the app that this engine knows, with bound ones.
    functions: dict[str, Function] = field(default_factory=dict)
    #: The session of the process that started it.
    session: int = 0
    #: What was said once already.
    told: set[str] = field(default_factory=set)

    @property
    def is_live(self) -> bool:
        """Whether it takes calls."""
        return self.state in LIVE_STATES

    def tell_once(self, text: str) -> None:
        """Writes a note to the log, the first time."""
        if text not in self.told:
            self.told.add(text)
            self.log.write(f"modalbatch: {text}\n")

    def to_json(self) -> bytes:
        """The app as the store keeps it."""
        return json.dumps({name: getattr(self, name) for name in _SAVED}).encode()

    @classmethod
    def from_json(cls, data: bytes, log: AppLog) -> App:
        """The app as it was kept."""
        return cls(log=log, **json.loads(data))

    def lifecycle(self) -> Message:
        """The app's dates and state for the client."""
        return message(
            proto.AppLifecycle,
            app_state=self.state,
            created_at=self.created_at,
            created_by="you",
            deployed_at=self.deployed_at,
            deployed_by="you" if self.deployed_at else "",
            version=self.version,
            stopped_at=self.stopped_at,
            stopped_by="you" if self.stopped_at else "",
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Function:
    """A function, or a class with its parameters bound."""

    id: str
    app: App
    definition: Message
    #: Serialised class parameters.
    params: bytes = b""
    #: The version of its app that it belongs to for ever; 0: to the one in force.
    version: int = 0
    #: The image that its run adds to, for a function that is run once to build an image.
    build_id: str = ""
    #: The definition of a redeployment that is not published yet.
    staged: Message | None = None
    tally: Tally = field(default_factory=Tally)
    pool: Pool = field(init=False)

    @property
    def name(self) -> str:
        """The name in the app, `Class.*` for a class."""
        return str(self.definition.function_name)

    @property
    def has_schedule(self) -> bool:
        """Whether it is to start by itself."""
        return self.definition.schedule.WhichOneof("schedule_oneof") is not None

    @property
    def n_slots(self) -> int:
        """Inputs that one container takes at a time."""
        d = self.definition
        return int(max(d.target_concurrent_inputs or d.max_concurrent_inputs, d.batch_max_size, 1))

    @property
    def max_containers(self) -> int:
        """The limit that the app sets; 0 for none. A program that listens on a port of this machine can run once."""
        if server_ports(self.definition):
            return 1
        return self._setting("max_containers", self.definition.concurrency_limit)

    @property
    def min_containers(self) -> int:
        """Containers that stay up without work."""
        return self._setting("min_containers", self.definition.warm_pool_size)

    @property
    def buffer_containers(self) -> int:
        """Idle containers kept beside busy ones."""
        return int(self.definition.autoscaler_settings.buffer_containers)

    @property
    def idle_limit_s(self) -> float:
        """Seconds after which an idle container stops."""
        d = self.definition
        return float(d.autoscaler_settings.scaledown_window or d.task_idle_timeout_secs or 60)

    def _setting(self, name: str, older: int) -> int:
        """An autoscaler setting, where 0 counts if it was said; `older` is where clients said it before."""
        settings = self.definition.autoscaler_settings
        return int(getattr(settings, name) if settings.HasField(name) else older)

    def retry_delay_s(self, n_done: int) -> float:
        """Seconds before the next attempt, after `n_done` retries."""
        policy = self.definition.retry_policy
        delay_ms = policy.initial_delay_ms * (policy.backoff_coefficient or 1.0) ** n_done
        return float(min(delay_ms, policy.max_delay_ms or 60_000)) / 1000

    def stage(self, definition: Message) -> None:
        """Takes a definition: at once for a new function, at the next publication for one that may be running."""
        if self.app.deployed_at:
            self.staged = definition
        else:
            self.definition = definition

    def saved(self) -> bytes:
        """The function as the store keeps it."""
        return bytes(proto.FunctionCreateRequest(function=self.definition, app_id=self.app.id).SerializeToString())

    def handle(self) -> Message:
        """What a client must know to call it."""
        d = self.definition
        handle = message(
            proto.FunctionHandleMetadata,
            function_name=d.function_name,
            function_type=d.function_type,
            web_url=d.web_url,
            is_method=d.is_method,
            definition_id="de-" + self.id[3:],
            app_id=self.app.id,
            class_parameter_info=d.class_parameter_info,
            function_schema=d.function_schema,
            supported_input_formats=d.supported_input_formats,
            supported_output_formats=d.supported_output_formats,
        )
        for name, method in d.method_definitions.items():
            handle.method_handle_metadata[name].CopyFrom(
                message(
                    proto.FunctionHandleMetadata,
                    function_name=method.function_name,
                    is_method=True,
                    function_type=method.function_type,
                    use_method_name=name,
                    web_url=method.web_url,
                    function_schema=method.function_schema,
                    supported_input_formats=method.supported_input_formats,
                    supported_output_formats=method.supported_output_formats,
                )
            )
        return handle

    def data(self) -> Message:
        """The function as `FunctionData`, which newer clients insist on."""
        d = self.definition
        ranked = proto.FunctionData.RankedFunction(rank=0, function=d)
        return message(
            proto.FunctionData,
            ranked_functions=[ranked],
            module_name=d.module_name,
            function_name=d.function_name,
            function_type=d.function_type,
            is_class=d.is_class,
            is_method=d.is_method,
            web_url=d.web_url,
            webhook_config=d.webhook_config,
            method_definitions=d.method_definitions,
            method_definitions_set=d.method_definitions_set,
            timeout_secs=d.timeout_secs,
            class_parameter_info=d.class_parameter_info,
            function_schema=d.function_schema,
            autoscaler_settings=d.autoscaler_settings,
        )


def web_parts(definition: Message) -> Iterator[tuple[str, Message]]:
    """What of a function is on the web: (method or nothing, the message with its `webhook_config` and `web_url`)."""
    if definition.webhook_config.type:
        yield "", definition
    for name, method in definition.method_definitions.items():
        if method.webhook_config.type:
            yield name, method


def server_ports(definition: Message) -> list[int]:
    """The ports of this machine that programs of a function listen on."""
    configs = [part.webhook_config for _, part in web_parts(definition)]
    return [config.web_server_port for config in configs if config.type == proto.WEBHOOK_TYPE_WEB_SERVER]


def definition_hash(definition: Message) -> bytes:
    """Equal for equal definitions: a redeployment that changes nothing keeps its containers."""
    return hashlib.sha256(definition.SerializeToString(deterministic=True)).digest()


def bound_definition(base: Message, options: Message) -> Message:
    """The definition under `with_options(...)`: the base with what the options set."""
    d = proto.Function()
    d.CopyFrom(base)
    for name in (
        "timeout_secs",
        "max_concurrent_inputs",
        "target_concurrent_inputs",
        "batch_max_size",
        "batch_linger_ms",
        "retry_policy",
        "resources",
    ):
        if name in options.DESCRIPTOR.fields_by_name and options.HasField(name):
            value = getattr(options, name)
            if hasattr(value, "CopyFrom"):
                getattr(d, name).CopyFrom(value)
            else:
                setattr(d, name, value)
    settings = d.autoscaler_settings
    for name, setting in (
        ("concurrency_limit", "max_containers"),
        ("task_idle_timeout_secs", "scaledown_window"),
        ("warm_pool_size", "min_containers"),
        ("buffer_containers", "buffer_containers"),
    ):
        if name in options.DESCRIPTOR.fields_by_name and options.HasField(name):
            setattr(settings, setting, getattr(options, name))
    for name, replace in (("secret_ids", options.replace_secret_ids), ("volume_mounts", options.replace_volume_mounts)):
        if replace or getattr(options, name):
            if replace:
                d.ClearField(name)
            getattr(d, name).extend(getattr(options, name))
    return d
