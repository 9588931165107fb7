"""From a container on paper to a process. Runs on: laptop.

Owns the start of containers: environment, socket, log pipes, fork; and what is said where the kernel refuses us
something. What a container is given, and what is taken back when it has ended, is `outfit.py`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any

from grpclib import GRPCError

from modalbatch.engines.local.containers.container import Container
from modalbatch.engines.local.containers.forkserver import ForkServer
from modalbatch.engines.local.containers.outfit import Outfitter, needs_layers
from modalbatch.engines.local.containers.pipe import LogPipe
from modalbatch.engines.local.images.provision import Provisioner
from modalbatch.engines.local.service import Service
from modalbatch.engines.local.wire import failure, proto
from modalbatch.errors import ModalbatchError

_NO_NAMESPACES = (
    "containers have no namespaces of their own here: they see each other's processes, and a volume is not at its mount"
    " path but where the variable MODALBATCH_MOUNTS (JSON, by mount path) says"
)
_SHARED_VOLUMES = (
    "the kernel, or the file system of the home, has no overlays for us: volumes are shared folders, what a container"
    " writes is seen by all at once, without commit and reload"
)
_NO_LAYERS = (
    "the kernel gives no overlays here: what run_function writes is not part of the image but stays where it was"
    " written: on this machine's own file system, files with relative names in the folder of the function's code"
)
_log = logging.getLogger("modalbatch.engine")


class Launcher:
    """Starts containers."""

    def __init__(self, provisioner: Provisioner, outfitter: Outfitter) -> None:
        self._provisioner = provisioner
        self._outfitter = outfitter
        self._starts: set[asyncio.Task[None]] = set()
        self._endings: set[asyncio.Task[None]] = set()
        #: Set when the service exists: it serves the containers' sockets too.
        self.service: Service
        outfitter.scratch.mkdir(exist_ok=True)

    def launch(self, container: Container) -> None:
        """Starts a container in the background; its pool hears of the end, whatever it is."""
        self._run(self._start(container), self._starts)

    async def settle(self) -> None:
        """Returns when everything is taken back of the containers that have ended."""
        while self._endings:
            await asyncio.wait(self._endings)

    def _run(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _start(self, container: Container) -> None:
        function, outfitter = container.function, self._outfitter
        listener: asyncio.AbstractServer | None = None

        def ended(code: int) -> None:
            if listener is not None:
                listener.close()
            self._run(outfitter.take_back(container, code), self._endings)
            function.pool.on_exit(container, code)

        try:
            environment = await self._provisioner.environment(
                function.definition.image_id, outfitter.secret, function.app.tell_once
            )
            listener = await self.service.listen(str(outfitter.socket_path(container)))
            server = self._provisioner.server(environment)
            await server.ready()
            isolated = server.has_overlays and not outfitter.is_plain
            spec_path = await outfitter.prepare(container, environment, isolated=isolated)
            logs = [LogPipe(container, kind) for kind in (proto.FILE_DESCRIPTOR_STDOUT, proto.FILE_DESCRIPTOR_STDERR)]
        except Exception as error:
            _log.exception("cannot prepare %s", container.id)
            text = error.message or "" if isinstance(error, (ModalbatchError, GRPCError)) else repr(error)
            container.result = failure(text)
            ended(-1)
            return
        self._tell_limits(container, server)

        def exited(code: int) -> None:
            for log in logs:
                log.close()
            ended(code)

        server.start(container.id, spec_path, [log.write_end for log in logs], exited)
        for log in logs:
            os.close(log.write_end)
        container.send_signal = lambda number: server.signal(container.id, number)
        container.remount = lambda binds: server.mount(container.id, binds, str(outfitter.scratch))
        if container.is_draining and not container.is_ready:  # stopped while it was being prepared
            container.kill(container.reason)

    def _tell_limits(self, container: Container, server: ForkServer) -> None:
        """Says what a container does not have here because the kernel does not give it."""
        app, definition = container.function.app, container.function.definition
        is_plain = self._outfitter.is_plain or not server.has_namespaces
        if is_plain:
            self._provisioner.note(_NO_NAMESPACES)
            app.tell_once(_NO_NAMESPACES)
        if not is_plain and server.has_overlays:
            return
        if definition.volume_mounts:
            app.tell_once(_SHARED_VOLUMES)
        if needs_layers(container.function, self._provisioner.spec(definition.image_id)):
            app.tell_once(_NO_LAYERS)
