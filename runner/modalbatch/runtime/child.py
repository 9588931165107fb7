"""A slot seen from its worker: the process, its socket, its shared memory. Runs on: container."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from modalbatch.errors import InternalError, UnavailableError
from modalbatch.job import Job
from modalbatch.runtime.progress import Progress

Json = dict[str, Any]


class Child:
    """Starts the process at once; `ready` waits for the handler."""

    def __init__(self, job: Job) -> None:
        self.progress = Progress()
        ours, theirs = socket.socketpair()
        with theirs:
            fds = (theirs.fileno(), self.progress.fd)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "modalbatch.runtime.slot", *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # so that a kill takes what the handler has started along
            )
        self._socket = ours
        self._read = bytearray()
        self._is_closed = False
        self._waiting = select.poll()
        self._waiting.register(ours, select.POLLIN)
        self.start_error: Json | None = None
        self._is_ready = self._has_failed = False
        self.send({"job": job.to_json()})

    @property
    def pid(self) -> int:
        """Process id, also of its group."""
        return self._process.pid

    def ready(self, timeout_s: float) -> bool:
        """Wait until the handler is constructed; False leaves the reason in `start_error`."""
        if self._is_ready or self._has_failed:
            return self._is_ready
        message = self.receive(timeout_s)
        if message and message["kind"] == "ready":
            self._is_ready, self.start_error = True, None
        elif message:
            self._has_failed, self.start_error = True, message["error"]
        elif self.is_dead():
            how = f"the slot ended with {self.exit_text()} while it started"
            self._has_failed, self.start_error = True, _error("StartupError", how)
        else:
            self.start_error = _error("StartupError", f"the handler was not constructed within {timeout_s:g} s")
        return self._is_ready

    def send(self, message: Json) -> None:
        """One message; a dead slot is noticed when its answer does not come."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float) -> Json | None:
        """The next message; None after `timeout_s` or when the slot is dead (see `is_dead`)."""
        until = time.monotonic() + timeout_s
        while b"\n" not in self._read:
            if not self._waiting.poll(max(0.0, until - time.monotonic()) * 1000):
                return None
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                self._process.wait()
                return None
            self._read += data
        line, _, rest = bytes(self._read).partition(b"\n")
        self._read = bytearray(rest)
        message = json.loads(line)
        if not isinstance(message, dict):
            raise InternalError("a slot sent something else than a message")
        return message

    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def was_killed(self) -> bool:
        """Whether it ended by SIGKILL, which no handler does by accident."""
        return self._process.returncode == -signal.SIGKILL

    def exit_text(self) -> str:
        """How it ended: `exit code 3`, `signal SIGSEGV`."""
        code = self._process.returncode
        if code is not None and code < 0:
            return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"

    def kill(self) -> None:
        """End the slot and everything it has started, now. Closes: socket and memory, once."""
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._socket.close()
        self.progress.close()

    def close(self, timeout_s: float) -> Json | None:
        """Let the handler's `close()` run, then end; what it raised, if it did."""
        message = None
        if self.ready(timeout_s):
            self.send({"kind": "close"})
            message = self.receive(timeout_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s if message else 0)
        self.kill()
        return message["error"] if message and message["kind"] == "closed" else None


class Seat:
    """A place for one slot: whoever sits there may die and be replaced."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._child: Child | None = None
        #: As Modal bounds a container's start.
        self.start_timeout_s = float(job.compute.startup_timeout_s or job.compute.timeout_s)

    def child(self) -> Child:
        """The slot that sits here; a new one where there is none.

        Raises:
            UnavailableError: the machine has no process or memory left for one.
        """
        if self._child is None:
            try:
                self._child = Child(self._job)
            except OSError as error:
                raise UnavailableError(f"cannot start a slot: {error.strerror}") from error
        return self._child

    def vacate(self) -> None:
        """End the slot that sits here; the next one is started by who needs it."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def close(self, timeout_s: float) -> Json | None:
        """Let the handler's `close()` run; what it raised, if it did."""
        child, self._child = self._child, None
        return child.close(timeout_s) if child is not None else None


def _error(kind: str, message: str) -> Json:
    return {"type": kind, "message": message, "traceback": ""}
