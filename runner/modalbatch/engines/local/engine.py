"""The engine: what all services of one engine process share. Runs on: laptop.

Owns apps and functions by id, and their lives: who stops with whom. Speaks no protocol; the services do.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modalbatch.engines.local.calls.journal import Journal
from modalbatch.engines.local.calls.recent import Recent
from modalbatch.engines.local.calls.registry import Calls
from modalbatch.engines.local.calls.retention import Retention
from modalbatch.engines.local.containers.container import Container
from modalbatch.engines.local.containers.launcher import Launcher
from modalbatch.engines.local.containers.log import AppLog
from modalbatch.engines.local.containers.outfit import Outfitter
from modalbatch.engines.local.containers.pool import Pool
from modalbatch.engines.local.deployment import Deployments
from modalbatch.engines.local.faults.chaos import Chaos
from modalbatch.engines.local.faults.fault import Faults
from modalbatch.engines.local.function import App, Function, bound_definition, definition_hash
from modalbatch.engines.local.images.build import Builder
from modalbatch.engines.local.images.environment import EnvironmentCache, cache_folder
from modalbatch.engines.local.images.interpreter import PYTHONS
from modalbatch.engines.local.images.layer import LayerStore
from modalbatch.engines.local.images.managed import ManagedPythons
from modalbatch.engines.local.images.mount import MountStore
from modalbatch.engines.local.images.provision import Provisioner
from modalbatch.engines.local.prune import old_logs
from modalbatch.engines.local.schedules.clock import Clock
from modalbatch.engines.local.schedules.schedule import Scheduler
from modalbatch.engines.local.storage.blob import BlobServer
from modalbatch.engines.local.storage.catalog import Volumes
from modalbatch.engines.local.storage.view import Views
from modalbatch.engines.local.store import Store
from modalbatch.engines.local.web.site import Web
from modalbatch.engines.local.wire import Message, mint_id, not_found, proto
from modalbatch.errors import ModalbatchError

_log = logging.getLogger("modalbatch.engine")
#: Containers that start ahead of calls, per app.
_MAX_PRESTARTED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How an engine process is set up."""

    home: Path
    #: Socket folder of this process: short path, mode 0700.
    run_folder: Path
    engine_id: str
    uv_path: str
    #: Containers per function instead of the number of cores.
    containers: int | None
    #: Seconds for which finished outputs are gathered before a map client hears of them.
    linger_s: float
    #: Seconds without a word from a container after which it counts as lost.
    silence_s: float
    #: Faults to inject.
    chaos: Chaos | None = None


class Engine:
    """Everything alive in one engine process."""

    def __init__(self, config: EngineConfig, environ: Mapping[str, str], clock: Clock) -> None:
        self.config = config
        self.environ = environ
        self.clock = clock
        state = config.home / "engine"
        (state / "logs").mkdir(parents=True, exist_ok=True)
        self.faults = Faults(config.chaos, self.finish_if_idle) if config.chaos else None
        self.recent = Recent()
        self.store = Store(state / "state.db", clock.now)
        self.journal = Journal(self.store)
        self.calls = Calls(self.journal, clock, self.faults, self.finish_if_idle)
        self.mounts = MountStore(state, self.store)
        self.layers = LayerStore(state / "layers")
        self.builder = Builder(self)
        self.volumes = Volumes(config.home / "volumes", self.store)
        self.blobs = BlobServer(state / "blobs", self.volumes.file)
        self.retention = Retention(self.store, self.blobs, state / "logs", clock)
        cache = cache_folder(environ)
        self.provisioner = Provisioner(
            store=self.store,
            cache=EnvironmentCache(cache, config.uv_path, environ),
            cache_folder=cache,
            pythons=ManagedPythons(cache / PYTHONS, config.uv_path, environ),
            log_folder=state / "logs",
            environ=environ,
        )
        # With faults on request the worst case counts: what is not committed is lost with its container.
        self.views = Views(config.home / "volumes" / ".views", self.volumes.folder, None if config.chaos else clock)
        self.deployments = Deployments(self)
        outfitter = Outfitter(
            provisioner=self.provisioner,
            mounts=self.mounts,
            layers=self.layers,
            views=self.views,
            home=config.home,
            run_folder=config.run_folder,
            engine_id=config.engine_id,
            secret=self.secret,
            volume_folder=self.volumes.folder,
            layout=self.deployments.layout,
            # For a kernel that allows namespaces but not what is done in them.
            is_plain=environ.get("MODALBATCH_NO_NAMESPACES") == "1",
        )
        self.launcher = Launcher(self.provisioner, outfitter)
        self.apps: dict[str, App] = {}
        self._functions: dict[str, Function] = {}
        self._bound: dict[bytes, str] = {}
        self.scheduler = Scheduler(
            clock, lambda f: self.calls.add(f, is_sync=False, is_map=False), self.journal.add_inputs
        )
        self.web = Web(self)
        self._watches: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Sentences that a person should know, in the order in which they came up.
        self.notes: list[str] = []
        #: Secrets made by `from_dict`, by id.
        self.secrets: dict[str, dict[str, str]] = {}
        self._load()

    def _load(self) -> None:
        for path in old_logs(self.config.home / "engine" / "logs"):
            path.unlink()
        self.retention.begin()
        self.calls.callers.begin()
        self.blobs.sweep({blob_id for blob_id, _ in self.store.all("blob")})
        for app_id, data in self.store.all("app"):
            self.apps[app_id] = App.from_json(data, self._app_log(app_id))
        for function_id, data in self.store.all("function"):
            request = proto.FunctionCreateRequest.FromString(data)
            if request.app_id in self.apps:
                function = self.add_function(self.apps[request.app_id], request.function, function_id)
                self.web.open(function, function.definition)
        for app in self.apps.values():
            self.deployments.load(app)
            self.scheduler.renew(app)
        for bound_id, data in self.store.all("bound"):
            request = proto.FunctionBindParamsRequest.FromString(data)
            if request.function_id in self._functions:
                self._bind(self._functions[request.function_id], request, bound_id)

    def resume(self) -> None:
        """Goes on where an earlier engine has stopped: addresses, open calls. Order: when containers can reach us."""
        self.run(self.web.start)
        self.calls.resume(self.find_function)

    def _app_log(self, app_id: str) -> AppLog:
        return AppLog(self.log_path(app_id))

    def log_path(self, object_id: str) -> Path:
        """The log of an app, or of the build of an image."""
        return self.config.home / "engine" / "logs" / f"{object_id}.log"

    def on_note(self, tell: Callable[[str], None]) -> None:
        """Has every note told to the holders of the engine."""

        def note(text: str) -> None:
            if text not in self.notes:
                self.notes.append(text)
            tell(text)

        self.provisioner.note = note

    def run(self, work: Callable[[], object]) -> None:
        """Does something in the background: `work` returns a coroutine."""
        task = asyncio.ensure_future(work())  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- apps

    def add_app(self, *, environment: str, name: str, state: int, tags: Mapping[str, str]) -> App:
        """A new app."""
        app_id = mint_id("ap")
        app = App(
            id=app_id, environment=environment, name=name, state=state, tags=dict(tags), log=self._app_log(app_id)
        )
        app.created_at = self.clock.now()
        self.apps[app_id] = app
        return app

    def app(self, app_id: str) -> App:
        """An app by id. Raises: NOT_FOUND."""
        if app_id not in self.apps:
            raise not_found(f"app {app_id} is not known here")
        return self.apps[app_id]

    def save_app(self, app: App) -> None:
        """Keeps a deployed app and its functions across restarts."""
        self.store.put("app", app.id, app.to_json())
        for function in app.functions.values():
            if function.id in app.function_ids.values():
                self.store.put("function", function.id, function.saved())

    def tie(self, app: App, pid: int) -> None:
        """Stops an ephemeral app when the process that started it ends, however it ends."""
        with contextlib.suppress(OSError):
            app.session = os.getsid(pid)
            watch = os.pidfd_open(pid)
            self._watches[app.id] = watch
            asyncio.get_running_loop().add_reader(watch, self.client_left, app)

    def untie(self, app: App) -> None:
        """Ends the watch over an app's client."""
        watch = self._watches.pop(app.id, None)
        if watch is not None:
            asyncio.get_running_loop().remove_reader(watch)
            os.close(watch)

    def client_left(self, app: App) -> None:
        """What the end of its client means for an app: the end, unless it is deployed or detached."""
        self.untie(app)
        if app.state == proto.APP_STATE_DETACHED:
            app.state = proto.APP_STATE_DETACHED_DISCONNECTED
            self.finish_if_idle(app)
        elif app.state in (proto.APP_STATE_INITIALIZING, proto.APP_STATE_EPHEMERAL) and not app.deployed_at:
            self.run(lambda: self.stop_app(app))

    def finish_if_idle(self, app: App) -> None:
        """Stops a detached app whose client is gone and whose calls are done."""
        if app.state == proto.APP_STATE_DETACHED_DISCONNECTED:
            is_busy = any(f.pool.n_pending or f.pool.n_running for f in app.functions.values())
            if not is_busy and not self.calls.has_work(app):
                self.run(lambda: self.stop_app(app))

    def detached(self, session: int) -> list[str]:
        """The names of apps that go on without their client, which was in a session of processes."""
        state = proto.APP_STATE_DETACHED_DISCONNECTED
        return sorted(app.name for app in self.apps.values() if app.state == state and app.session == session)

    async def stop_app(self, app: App) -> None:
        """Ends an app: its calls, its containers, its log."""
        if app.state in (proto.APP_STATE_STOPPING, proto.APP_STATE_STOPPED):
            return
        app.state = proto.APP_STATE_STOPPING
        self.scheduler.drop(app)
        self.builder.leave(app)
        self.untie(app)
        if app.deployed_at:
            self.store.unbind("app", app.environment, app.name)
            self.store.drop(app.id)
            for function_id in app.functions:
                self.store.drop(function_id)
            self.deployments.forget(app)
        await asyncio.gather(self.web.close(app), *[function.pool.stop() for function in app.functions.values()])
        app.state, app.stopped_at = proto.APP_STATE_STOPPED, self.clock.now()
        for function_id in app.functions:
            self._functions.pop(function_id, None)
        self.calls.drop_all(app)
        app.functions.clear()
        app.log.finish()

    # -- functions

    def add_function(
        self, app: App, definition: Message, function_id: str = "", *, params: bytes = b"", version: int = 0
    ) -> Function:
        """A new function of an app."""
        function = Function(
            id=function_id or mint_id("fu"), app=app, definition=definition, params=params, version=version
        )
        n_cores = self.config.containers or len(os.sched_getaffinity(0))
        function.pool = Pool(function, n_cores, self.launcher.launch, self.clock, self.faults)
        app.functions[function.id] = self._functions[function.id] = function
        return function

    def drop_function(self, function_id: str) -> None:
        """Ends a function that nobody can call any more, if there is one."""
        function = self._functions.pop(function_id, None)
        if function is not None:
            function.app.functions.pop(function_id, None)
            self.run(function.pool.stop)

    def find_function(self, function_id: str) -> Function | None:
        """A function by id, if it is known."""
        return self._functions.get(function_id)

    def function(self, function_id: str) -> Function:
        """A function by id. Raises: NOT_FOUND."""
        if function_id not in self._functions:
            raise not_found(f"function {function_id} is not known here: its app has stopped")
        return self._functions[function_id]

    def bind(self, base: Function, request: Message) -> Function:
        """A class with its parameters, or a function with options: one pool of its own per combination."""
        if not request.serialized_params and not request.function_options.ByteSize():
            return base  # its container may be up already
        bound = self._bind(base, request)
        if base.app.deployed_at:
            self.store.put("bound", bound.id, request.SerializeToString())
        return bound

    def _bind(self, base: Function, request: Message, bound_id: str = "") -> Function:
        params, options = request.serialized_params, request.function_options
        said = (base.id.encode(), params, options.SerializeToString(deterministic=True))
        key = hashlib.sha256(b"\0".join((*said, definition_hash(base.definition)))).digest()
        known = self._functions.get(self._bound.get(key, ""))
        if known is not None and not bound_id:
            return known
        definition = bound_definition(base.definition, options)
        bound = self.add_function(base.app, definition, bound_id, params=params, version=base.version)
        self._bound[key] = bound.id
        return bound

    def publish(self, app: App) -> None:
        """Puts staged definitions into force; containers of changed functions end after what they do."""
        current = set(app.function_ids.values())
        for function in list(app.functions.values()):
            staged, function.staged = function.staged, None
            changed = staged is not None and definition_hash(staged) != definition_hash(function.definition)
            if staged is not None:
                function.definition = staged
            if changed or (app.deployed_at and not function.version and function.id not in current):
                function.pool.retire()
        self.run(lambda: self.web.close_unused(app))
        for function_id in current:
            self.function(function_id).pool.keep_warm()

    def prestart(self, app: App) -> None:
        """Starts containers of the functions that an app defines first, up to the door of user code."""
        current = set(app.function_ids.values())
        defined = [function for function in app.functions.values() if function.id in current]
        for function in defined[:_MAX_PRESTARTED]:
            if not function.definition.class_parameter_info.schema:
                function.pool.prestart()

    # -- containers

    def container(self, container_id: str) -> Container:
        """A container by id. Raises: NOT_FOUND."""
        for function in self._functions.values():
            for container in function.pool.containers:
                if container.id == container_id:
                    return container
        raise not_found(f"container {container_id} is not running")

    # -- objects that functions use

    def secret(self, secret_id: str) -> Mapping[str, str]:
        """The variables of a secret."""
        if secret_id not in self.secrets:
            data = self.store.find("secret", secret_id)
            if data is None:
                raise not_found(f"secret {secret_id} is not known here")
            self.secrets[secret_id] = json.loads(data)
        return self.secrets[secret_id]

    # -- end

    async def close(self) -> None:
        """Stops everything: apps gracefully for a moment, then all processes at once."""
        self.calls.close()
        stops = [self._stop_for_good(app) for app in self.apps.values() if app.is_live]
        stops.append(self.web.close())
        await asyncio.wait([asyncio.ensure_future(stop) for stop in stops], timeout=3)
        self.provisioner.close()
        await self.launcher.settle()
        await self.views.finish()
        await self.blobs.close()
        for task in list(self._tasks):
            task.cancel()
        shutil.rmtree(self.config.home / "volumes" / ".ephemeral", ignore_errors=True)
        self.store.close()

    async def _stop_for_good(self, app: App) -> None:
        """Ends an app's containers without undeploying it."""
        app.state = proto.APP_STATE_STOPPING
        self.scheduler.drop(app)
        try:
            await asyncio.gather(*[function.pool.stop() for function in app.functions.values()])
        except (ModalbatchError, OSError):
            _log.exception("stopping %s", app.id)
