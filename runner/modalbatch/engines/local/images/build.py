"""Functions that are run once, for what they write into an image. Runs on: laptop.

Owns the builds of one engine: who waits for which, what is built already, what a failure means. A build has an app of
its own, so that its log can be read apart from that of the app that needs the image. How what is written becomes part
of an image is `layer.py`'s.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modalbatch.engines.local.calls.call import Call
from modalbatch.engines.local.containers.log import AppLog
from modalbatch.engines.local.function import App, Function
from modalbatch.engines.local.wire import SUCCESS, Message, Result, failure, mint_id, proto

if TYPE_CHECKING:
    from modalbatch.engines.local.engine import Engine

_log = logging.getLogger("modalbatch.engine")


@dataclass(slots=True, kw_only=True, eq=False)
class Build:
    """One run of a build function."""

    image_id: str
    #: The app that asked for it first: the build ends with it.
    owner: App
    function: Function
    #: Empty until it is over.
    result: Message = field(default_factory=Result)

    @property
    def log(self) -> AppLog:
        """What the function prints; finished after the result is known."""
        return self.function.app.log


class Builder:
    """Runs build functions, each once as long as nothing about it changes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._builds: dict[str, Build] = {}

    async def image(self, image_id: str, request: Message) -> str:
        """The id of the image that a layer with a build function becomes; its build has begun, if it is needed."""
        engine = self._engine
        owner, asked = engine.app(request.app_id), engine.function(request.build_function_id)
        # What was written into the Python environment is of no use to another one.
        environment = await engine.provisioner.environment(image_id, engine.secret, owner.tell_once)
        known = engine.store.resolve("built", environment.name, image_id)
        is_forced = request.force_build or request.ignore_cache
        if known and (self._is_running(known) or (engine.layers.has(known) and not is_forced)):
            return known
        built_id = mint_id("im")
        engine.provisioner.put_image(built_id, request.image)
        engine.store.bind("built", environment.name, image_id, built_id)
        build = Build(image_id=built_id, owner=owner, function=self._function(asked, built_id))
        self._builds[built_id] = build
        engine.run(lambda: self._run(build, request.image.build_function.input))
        return built_id

    def find(self, image_id: str) -> Build | None:
        """The build of an image in this engine, unless it was successful and is over."""
        return self._builds.get(image_id)

    def log(self, image_id: str) -> AppLog:
        """What the build of an image has printed."""
        build = self._builds.get(image_id)
        return build.log if build is not None else AppLog(self._engine.log_path(image_id))

    def leave(self, owner: App) -> None:
        """Ends the builds that an app has begun."""
        for app in [build.function.app for build in self._builds.values() if build.owner is owner]:
            self._engine.run(functools.partial(self._engine.stop_app, app))

    def _is_running(self, image_id: str) -> bool:
        return image_id in self._builds and not self._builds[image_id].result.status

    def _function(self, asked: Function, image_id: str) -> Function:
        log = AppLog(self._engine.log_path(image_id))
        app = App(id=mint_id("ap"), environment=asked.app.environment, name=f"build of {image_id}", log=log)
        function = self._engine.add_function(app, asked.definition)
        function.build_id = image_id
        app.function_ids[function.name] = function.id
        return function

    async def _run(self, build: Build, data: Message) -> None:
        """Runs a build to its end; whoever waits for it hears of any."""
        try:
            build.result = await self._result(build, data)
        except Exception as error:  # ours: nobody else would end the wait
            _log.exception("building %s", build.image_id)
            build.result = failure(f"modalbatch's local engine failed to build {build.image_id}: {error!r}")
        build.log.finish()
        if build.result.status == SUCCESS:
            del self._builds[build.image_id]

    async def _result(self, build: Build, data: Message) -> Message:
        engine, function = self._engine, build.function
        if not data.WhichOneof("args_oneof"):
            data = proto.FunctionInput(args=pickle.dumps(((), {})), data_format=proto.DATA_FORMAT_PICKLE)
        ended: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        call = Call(mint_id("fc"), function, is_sync=False, is_map=False)
        call.keep = lambda output: ended.set_result(output.result)
        function.pool.add(call.add(0, data))
        result = await ended
        await engine.stop_app(function.app)  # all is written when its container has ended
        if result.status == SUCCESS:
            engine.layers.publish(build.image_id)
        else:
            engine.layers.discard(build.image_id)
        return result
