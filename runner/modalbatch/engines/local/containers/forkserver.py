"""The engine's end of a fork server: one process per image environment. Runs on: laptop.

Owns that process and the socket to it. A fork server that dies takes its containers along; they are reported as killed
and the next start makes a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modalbatch.engines.local.containers.guest_isolation import Bind
from modalbatch.errors import ModalbatchError

_SCRIPT = Path(__file__).with_name("guest_forkserver.py")
_MAX_MESSAGE_BYTES = 65536
#: Variables of the laptop that a container sees.
_ALLOWED_NAMES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


def container_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the laptop's environment enters a container."""
    return {name: environ[name] for name in _ALLOWED_NAMES if name in environ}


class ForkServer:
    """Starts containers in one environment."""

    def __init__(self, python: Path, environ: Mapping[str, str], error_path: Path) -> None:
        self._error_path = error_path
        self._exits: dict[str, Callable[[int], None]] = {}
        self._is_dead = False
        #: Whether the kernel gives its containers namespaces, and overlays in them; known when it is ready.
        self.has_namespaces = self.has_overlays = False
        self._mounts: deque[asyncio.Future[int]] = deque()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, error_path.open("wb") as errors:
            self._process = subprocess.Popen(
                # The last argument shows in `ps` which home a container belongs to.
                [python, _SCRIPT, str(theirs.fileno()), str(os.getpid()), error_path],
                env=dict(environ),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                cwd="/",
            )
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    @property
    def is_dead(self) -> bool:
        """Whether another one is needed."""
        return self._is_dead

    @property
    def n_containers(self) -> int:
        """Containers that run in it."""
        return len(self._exits)

    async def ready(self) -> None:
        """Returns when containers can start.

        Raises: ModalbatchError when the environment cannot run Modal's runtime.
        """
        await asyncio.shield(self._ready)

    async def mount(self, container_id: str, binds: Sequence[Bind], scratch: str) -> int:
        """Mounts folders of a container anew; errno, 0 for success."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        request = {"op": "mount", "id": container_id, "binds": binds, "scratch": scratch}
        try:
            self._socket.send(json.dumps(request).encode())
        except OSError:
            return errno.ESRCH
        self._mounts.append(done)
        return await done

    def start(self, container_id: str, spec_path: Path, descriptors: list[int], on_exit: Callable[[int], None]) -> None:
        """Forks a container; `on_exit` gets its exit code, negative for a signal. Order: when it is ready."""
        self._exits[container_id] = on_exit
        request = json.dumps({"op": "start", "id": container_id, "spec": str(spec_path)}).encode()
        try:
            socket.send_fds(self._socket, [request], descriptors)
        except OSError:
            self._exits.pop(container_id, None)
            on_exit(-signal.SIGKILL)

    def signal(self, container_id: str, number: int) -> None:
        """Sends a signal to a container's first process; does nothing for one that is gone."""
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps({"op": "signal", "id": container_id, "signal": number}).encode())

    def kill(self) -> None:
        """Ends the server and every container in it, at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._close()

    def _receive(self) -> None:
        while True:
            try:
                data = self._socket.recv(_MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close()
                return
            self._handle(json.loads(data))

    def _handle(self, event: dict[str, Any]) -> None:
        if event["event"] == "ready" and not self._ready.done():
            self.has_namespaces, self.has_overlays = event["namespaces"], event["overlays"]
            self._ready.set_result(None)
        elif event["event"] == "mounted":
            self._answer_mount(event["code"])
        elif event["event"] == "exit":
            on_exit = self._exits.pop(event["id"], None)
            if on_exit is not None:
                on_exit(event["code"])

    def _answer_mount(self, code: int) -> None:
        done = self._mounts.popleft()
        if not done.done():  # whoever asked may have left
            done.set_result(code)

    def _close(self) -> None:
        if self._is_dead:
            return
        self._is_dead = True
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        if not self._ready.done():
            said = self._error_path.read_text(errors="replace").strip()
            self._ready.set_exception(ModalbatchError(f"the image's environment cannot run modal:\n{said}"))
            self._ready.exception()  # marked as seen: nobody may be waiting
        while self._mounts:
            self._answer_mount(errno.ESRCH)
        exits, self._exits = self._exits, {}
        for on_exit in exits.values():
            on_exit(-signal.SIGKILL)
