"""RPCs about apps, environments and their logs. Runs on: laptop.

Owns the translation between requests and `Engine`; decides nothing about containers.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.function import App
from modalbatch.engines.local.name import check_environment, check_name
from modalbatch.engines.local.wire import (
    BUILDER_VERSION,
    LONG_POLL_S,
    Message,
    Peer,
    message,
    newer_message,
    not_found,
    proto,
    unsupported,
    write_token,
)

_TOKEN_S = 86_400
DEFAULT_ENVIRONMENT = "main"
Send = Callable[[Message], Awaitable[None]]


class AppService:
    """Apps: create, publish, list, stop, tag, read their logs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ClientHello(self, request: Message, peer: Peer) -> Message:
        """Answers that we are here."""
        return proto.ClientHelloResponse()

    async def EnvironmentGetOrCreate(self, request: Message, peer: Peer) -> Message:
        """Any environment exists as soon as it is named."""
        name = request.deployment_name or DEFAULT_ENVIRONMENT
        check_environment(name)
        self._engine.store.bind("environment", "", name, f"en-{name}")
        settings = proto.EnvironmentSettings(image_builder_version=BUILDER_VERSION)
        metadata = message(proto.EnvironmentMetadata, name=name, settings=settings)
        return proto.EnvironmentGetOrCreateResponse(environment_id=f"en-{name}", metadata=metadata)

    async def EnvironmentCreate(self, request: Message, peer: Peer) -> None:
        """Names an environment."""
        check_environment(request.name)
        self._engine.store.bind("environment", "", request.name, f"en-{request.name}")

    async def EnvironmentList(self, request: Message, peer: Peer) -> Message:
        """Every environment that was named."""
        names = {name for name, _, _ in self._engine.store.names("environment", "")} | {DEFAULT_ENVIRONMENT}
        items = [
            message(
                proto.EnvironmentListItem, name=name, default=name == DEFAULT_ENVIRONMENT, environment_id=f"en-{name}"
            )
            for name in sorted(names)
        ]
        return proto.EnvironmentListResponse(items=items)

    async def AuthTokenGet(self, request: Message, peer: Peer) -> Message:
        """A token that opens nothing: what newer clients want it for, such as sandboxes, is refused by its own name."""
        return proto.AuthTokenGetResponse(token=write_token(exp=int(time.time()) + _TOKEN_S))

    async def AppCreate(self, request: Message, peer: Peer) -> Message:
        """A new app; an ephemeral one lives as long as the process that asks for it."""
        app = self._engine.add_app(
            environment=request.environment_name or DEFAULT_ENVIRONMENT,
            name=request.description,
            state=request.app_state or proto.APP_STATE_INITIALIZING,
            tags=request.tags,
        )
        if app.state != proto.APP_STATE_DEPLOYED:
            self._engine.tie(app, peer.pid)
        for note in self._engine.notes:
            app.tell_once(note)
        return proto.AppCreateResponse(app_id=app.id, app_page_url=_page(app), app_logs_url=_page(app))

    async def AppGetOrCreate(self, request: Message, peer: Peer) -> Message:
        """The deployed app of a name, made if asked for."""
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        app_id = self._engine.store.resolve("app", environment, request.app_name)
        if app_id is None:
            if request.object_creation_type != proto.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
                raise not_found(f"app `{request.app_name}` is not deployed in environment `{environment}`")
            check_environment(environment)
            check_name("app", request.app_name)
            app = self._engine.add_app(
                environment=environment, name=request.app_name, state=proto.APP_STATE_DEPLOYED, tags={}
            )
            app.deployed_at = self._engine.clock.now()
            self._engine.save_app(app)
            self._engine.store.bind("app", environment, app.name, app.id)
            app_id = app.id
        return proto.AppGetOrCreateResponse(app_id=app_id)

    async def AppGetByDeploymentName(self, request: Message, peer: Peer) -> Message:
        """The deployed app of a name, or the last one that was."""
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        app_id = self._engine.store.resolve("app", environment, request.name) or ""
        stopped = [
            app
            for app in self._engine.apps.values()
            if not app.is_live and app.name == request.name and app.environment == environment and app.deployed_at
        ]
        previous = stopped[-1] if stopped else None
        known = self._engine.apps.get(app_id) or previous
        return message(
            proto.AppGetByDeploymentNameResponse,
            app_id=app_id,
            environment_name=environment,
            previous_app_id=previous.id if previous else "",
            lifecycle=known.lifecycle() if known else None,
        )

    async def AppGetLayout(self, request: Message, peer: Peer) -> Message:
        """What an app consists of."""
        return proto.AppGetLayoutResponse(app_layout=self._engine.deployments.layout(self._engine.app(request.app_id)))

    async def AppPublish(self, request: Message, peer: Peer) -> Message:
        """Puts an app into force."""
        app = self._engine.app(request.app_id)
        if request.app_state == proto.APP_STATE_DEPLOYED:
            check_name("app", request.name)
        app.function_ids, app.class_ids = dict(request.function_ids), dict(request.class_ids)
        app.state = request.app_state or app.state
        if "tags" in request.DESCRIPTOR.fields_by_name and request.tags:
            app.tags = dict(request.tags)
        self._engine.publish(app)
        if app.state == proto.APP_STATE_DEPLOYED:
            self._engine.untie(app)
            app.name = request.name
            self._deploy(app, tag=request.deployment_tag, client_version=request.client_version or version("modal"))
        else:
            if any(self._engine.function(function_id).has_schedule for function_id in app.function_ids.values()):
                app.tell_once("schedules fire when the app is deployed (`modal deploy`)")
            self._engine.prestart(app)
        return message(
            proto.AppPublishResponse, url=_page(app), deployed_at=app.deployed_at or self._engine.clock.now()
        )

    def _deploy(self, app: App, **facts: Any) -> None:
        """Makes what was published the app's next version."""
        app.deployed_at, app.version = self._engine.clock.now(), app.version + 1
        self._engine.save_app(app)
        self._engine.store.bind("app", app.environment, app.name, app.id)
        self._engine.deployments.record(app, **facts)
        self._engine.scheduler.renew(app)

    async def AppDeploymentHistory(self, request: Message, peer: Peer) -> Message:
        """The versions of an app that are kept."""
        app = self._engine.app(request.app_id)
        return message(
            proto.AppDeploymentHistoryResponse,
            app_deployment_histories=self._engine.deployments.history(app),
            production_app_version=app.version,
        )

    async def AppRollback(self, request: Message, peer: Peer) -> Message | None:
        """Puts an earlier version into force again, as a new one."""
        app = self._engine.app(request.app_id)
        version = request.version if request.version > 0 else app.version + request.version
        self._engine.deployments.roll_back(app, version)
        self._engine.publish(app)
        await self._engine.web.start()
        self._deploy(app, rollback_version=version)
        return newer_message("AppRollbackResponse", url=_page(app), deployed_at=app.deployed_at)

    async def AppRollover(self, request: Message, peer: Peer) -> Message:
        """Deploys what is deployed once more: containers end after what they do, new ones take over."""
        app = self._engine.app(request.app_id)
        self._deploy(app, client_version=version("modal"))
        for function in app.functions.values():
            if not function.version:
                function.pool.retire()
        return message(proto.AppRolloverResponse, url=_page(app), deployed_at=app.deployed_at)

    async def AppHeartbeat(self, request: Message, peer: Peer) -> None:
        """The life of a client is watched by its process, not by this."""
        self._engine.app(request.app_id)

    async def AppClientDisconnect(self, request: Message, peer: Peer) -> None:
        """The client is done with its app."""
        self._engine.client_left(self._engine.app(request.app_id))

    async def AppStop(self, request: Message, peer: Peer) -> None:
        """Stops an app and takes its name."""
        await self._engine.stop_app(self._engine.app(request.app_id))

    async def AppSetTags(self, request: Message, peer: Peer) -> None:
        """Replaces an app's tags."""
        app = self._engine.app(request.app_id)
        app.tags = dict(request.tags)
        if app.deployed_at:
            self._engine.save_app(app)

    async def AppGetTags(self, request: Message, peer: Peer) -> Message:
        """An app's tags."""
        return proto.AppGetTagsResponse(tags=self._engine.app(request.app_id).tags)

    async def AppGetLifecycle(self, request: Message, peer: Peer) -> Message:
        """An app's dates and state."""
        return proto.AppGetLifecycleResponse(lifecycle=self._engine.app(request.app_id).lifecycle())

    async def AppList(self, request: Message, peer: Peer) -> Message:
        """Apps of an environment that run or have run in this engine."""
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        apps = [
            message(
                proto.AppListResponse.AppListItem,
                app_id=app.id,
                name=app.name,
                description=app.name,
                state=app.state,
                created_at=app.created_at,
                stopped_at=app.stopped_at,
                n_running_tasks=len(_containers(app)),
            )
            for app in self._engine.apps.values()
            if app.environment == environment
        ]
        return proto.AppListResponse(apps=apps)

    async def TaskList(self, request: Message, peer: Peer) -> Message:
        """Containers that run."""
        tasks = [
            message(
                proto.TaskStats,
                task_id=container.id,
                app_id=app.id,
                app_description=app.name,
                started_at=container.created_at,
                enqueued_at=container.created_at,
            )
            for app in self._engine.apps.values()
            if not request.app_id or app.id == request.app_id
            for container in _containers(app)
        ]
        return proto.TaskListResponse(tasks=tasks)

    async def AppGetLogs(self, request: Message, peer: Peer, send: Send) -> None:
        """Streams an app's log from an entry on, for as long as the client wants to wait."""
        if not request.app_id:
            raise unsupported("reading logs of anything but an app")
        app = self._engine.app(request.app_id)
        position = int(request.last_entry_id.split("-")[0] or 0)
        end = time.monotonic() + min(request.timeout, LONG_POLL_S)
        while True:
            is_done = app.log.is_done
            for batch in app.log.read(position):
                position = int(batch.entry_id)
                if _matches(batch, request, request.file_descriptor):
                    await send(batch)
            if is_done:
                await send(proto.TaskLogsBatch(app_done=True, entry_id=str(position)))
                return
            left_s = end - time.monotonic()
            if left_s <= 0:
                await send(proto.TaskLogsBatch(entry_id=str(position)))
                return
            if not app.log.is_done:  # it may have ended while we were sending
                await app.log.wait(left_s)

    async def AppFetchLogs(self, request: Message, peer: Peer) -> Message:
        """The last entries of a log within a time range."""
        log = self._engine.app(request.app_id).log

        def accept(batch: Message) -> bool:
            return _in_range(batch, request) and _matches(batch, request, request.source)

        batches = log.last(request.limit, accept)
        return proto.AppFetchLogsResponse(batches=batches)

    async def AppCountLogs(self, request: Message, peer: Peer) -> Message:
        """How many entries fall into each span of time."""
        log = self._engine.app(request.app_id).log
        width = max(1, request.bucket_secs)
        counts: dict[int, dict[str, int]] = {}
        names = {proto.FILE_DESCRIPTOR_STDOUT: "stdout_logs", proto.FILE_DESCRIPTOR_STDERR: "stderr_logs"}
        for batch in log.read(0):
            if _in_range(batch, request) and _matches(batch, request, request.source):
                for item in batch.items:
                    bucket = counts.setdefault(int(item.timestamp // width) * width, {})
                    name = names.get(item.file_descriptor, "system_logs")
                    bucket[name] = bucket.get(name, 0) + 1
        response = proto.AppCountLogsResponse(app_id=request.app_id)
        for start, bucket in sorted(counts.items()):
            added = response.buckets.add(**bucket)
            added.bucket_start_at.FromSeconds(start)
        return response


def _page(app: App) -> str:
    return f"local://{app.id}"


def _containers(app: App) -> list[Any]:
    """The containers that a person should see: those that were asked for."""
    return [c for function in app.functions.values() for c in function.pool.containers if not c.is_held]


def _matches(batch: Message, request: Message, stream: int) -> bool:
    """Whether an entry is one of those that a log request selects."""
    if stream and all(item.file_descriptor != stream for item in batch.items):
        return False
    text = getattr(request, "search_text", "")
    return (
        (not request.task_id or batch.task_id == request.task_id)
        and (not request.function_id or batch.function_id == request.function_id)
        and (not text or any(text in item.data for item in batch.items))
    )


def _in_range(batch: Message, request: Message) -> bool:
    first, last = request.since.ToNanoseconds() / 1e9, request.until.ToNanoseconds() / 1e9
    return any(first <= item.timestamp <= last + 1 for item in batch.items)
