"""The engine process: start, leases, end. Runs on: laptop.

Owns the process: it serves on sockets that the starting command made, lives while a lease is held, and leaves nothing.
Slow imports come after the fork server's start, so that both happen at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modalbatch.engines.local.containers.forkserver import ForkServer, container_environ
from modalbatch.engines.local.images.environment import cache_folder
from modalbatch.engines.local.store import Store

#: Between two looks at what goes on without a client.
_LOOK_S = 0.1


class Leases:
    """Who holds the engine."""

    def __init__(self, summary: Callable[[], str] | None, detached: Callable[[int], list[str]]) -> None:
        #: What holders are told at their end.
        self._summary = summary
        #: The apps that go on without their client, by its session.
        self._detached = detached
        self._writers: set[asyncio.StreamWriter] = set()
        self._notes: list[str] = []
        self.all_released = asyncio.Event()

    def note(self, text: str) -> None:
        """Tells every holder, now and later, something that a person must know."""
        if text not in self._notes:
            self._notes.append(text)
            for writer in self._writers:
                writer.write(_line(notes=[text]))

    async def hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one holder until it lets go; the last one is answered when the engine is gone."""
        self._writers.add(writer)
        writer.write(_line(notes=self._notes))
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():  # a session: the holder would stay for its apps that go on
                await self._tell_detached(int(line), reader, writer)
        if self._summary is not None:
            writer.write(_line(summary=self._summary()))
        if len(self._writers) == 1:
            self.all_released.set()
            return
        self._writers.discard(writer)
        writer.write(_line(left=True))
        writer.close()

    async def _tell_detached(self, session: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says which apps go on, and then when they have ended; or until the holder leaves."""
        told: list[str] | None = None
        while told != [] and not reader.at_eof():
            if (names := self._detached(session)) != told:
                told = names
                writer.write(_line(detached=names))
            await asyncio.sleep(_LOOK_S if told else 0)

    def interrupt(self, number: int) -> None:
        """Ends the engine although it is held: somebody has sent it a signal."""
        logging.getLogger("modalbatch.engine").warning("ended by signal %d", number)
        self.all_released.set()

    def end(self) -> None:
        """Says goodbye to those who still listen."""
        for writer in self._writers:
            writer.write(_line(gone=True))


def _line(**facts: Any) -> bytes:
    return json.dumps(facts).encode() + b"\n"


async def serve(options: dict[str, Any]) -> None:
    """Runs the engine until the last lease is released or a signal ends it."""
    home, run_folder = Path(options["home"]), Path(options["run_folder"])
    warm = _warm_server(home)

    from modalbatch.engines.local.engine import Engine, EngineConfig
    from modalbatch.engines.local.faults.chaos import parse
    from modalbatch.engines.local.schedules.clock import Clock, serve_clock
    from modalbatch.engines.local.service import Service
    from modalbatch.engines.local.services.app import AppService
    from modalbatch.engines.local.services.call import CallService
    from modalbatch.engines.local.services.container import ContainerService
    from modalbatch.engines.local.services.function import FunctionService
    from modalbatch.engines.local.services.image import ImageService
    from modalbatch.engines.local.services.object import DictService, QueueService, SecretService
    from modalbatch.engines.local.services.stream import StreamService
    from modalbatch.engines.local.services.token import TokenService
    from modalbatch.engines.local.services.volume import VolumeService

    config = EngineConfig(
        home=home,
        run_folder=run_folder,
        engine_id=options["engine_id"],
        uv_path=options["uv_path"],
        containers=options["containers"],
        linger_s=options["linger_s"],
        silence_s=options["silence_s"],
        chaos=parse(options["chaos"]) if options["chaos"] else None,
    )
    clock = Clock()
    engine = Engine(config, dict(os.environ), clock)
    if warm is not None:
        engine.provisioner.adopt(*warm)
    kinds = (
        CallService,
        StreamService,
        ContainerService,
        AppService,
        FunctionService,
        ImageService,
        VolumeService,
        SecretService,
        DictService,
        QueueService,
        TokenService,
    )
    service = Service(
        [kind(engine) for kind in kinds],
        token=options["token"],
        log_path=home / "engine" / "logs" / "engine.log",
        faults=engine.faults,
    )
    engine.launcher.service = service
    leases = Leases(engine.faults.summary if engine.faults else None, engine.detached)
    engine.on_note(leases.note)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leases.interrupt, number)
    gc.freeze()
    await serve_clock(clock, run_folder, os.environ)
    await service.listen(sock=socket.socket(fileno=options["api"]))
    engine.resume()
    lease_server = await asyncio.start_unix_server(leases.hold, sock=socket.socket(fileno=options["leases"]))
    await leases.all_released.wait()
    lease_server.close()  # who comes now starts the next engine
    try:
        await engine.close()
    finally:
        shutil.rmtree(run_folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            (home / "engine.json").unlink()
        leases.end()


def _warm_server(home: Path) -> tuple[str, ForkServer] | None:
    """Starts the fork server that this home used last, before anybody asks for it."""
    (home / "engine").mkdir(parents=True, exist_ok=True)
    store = Store(home / "engine" / "state.db")
    key = (store.find("last", "last") or b"").decode()
    store.close()
    environment = cache_folder(os.environ) / "envs" / key
    if not key or not environment.exists():
        return None
    environ = container_environ(os.environ)
    return key, ForkServer(environment / "bin" / "python", environ, home / "engine" / "logs" / f"{key}.err")


def main() -> None:
    """Reads the options that `lease.py` passes and serves."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(serve(json.loads(sys.argv[1])))
    # Nothing of ours is left to finalise, and a thread in a system call must not hold up the exit.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
