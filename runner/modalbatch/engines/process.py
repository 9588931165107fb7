"""The command's side of the client: a child process, or a thread under `modal run`. Runs on: laptop.

Owns the child, the pipes, and signals while a run is followed. Imports no modal.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from modalbatch.canonical import Json, encode
from modalbatch.errors import ModalbatchError, UnavailableError

if TYPE_CHECKING:
    import modal

#: Seconds that the child may take to leave an app in order.
LEAVE_S = 10.0


class Interrupts:
    """Counts Ctrl-C and SIGTERM instead of raising, and wakes whoever waits on `fd`. A context manager."""

    def __init__(self) -> None:
        self.n = 0

    def __enter__(self) -> Interrupts:
        self.fd, self._write = os.pipe()
        for end in (self.fd, self._write):
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._count) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.fd)
        os.close(self._write)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.n += 1


class ClientProcess:
    """One `modalbatch.engines.client`, in a session of its own: a terminal's Ctrl-C does not reach it."""

    def __init__(self, environ: Mapping[str, str], *, owns_app: bool = False) -> None:
        """`owns_app`: the app ends with the engine anyway, so that a command that fails need not leave it in order."""
        self._owns_app = owns_app
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "modalbatch.engines.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environ,
            start_new_session=True,
        )

    def send(self, **order: object) -> None:
        """Give an order; a child that is gone says so when its events are read."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return

    def events(self, interrupts: Interrupts | None = None, tick_s: float | None = None) -> Iterator[Json | None]:
        """Events as they come; None after `tick_s` seconds without one, and after a signal. Ends with the client.

        Raises:
            ModalbatchError: an `error` event, as what it says.
        """
        assert self._process.stdout is not None
        yield from read_events(self._process.stdout.fileno(), interrupts, tick_s)

    def died(self) -> UnavailableError:
        """After the events ended without an outcome: why, as far as the child could say."""
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        return UnavailableError(
            f"the client process ended with code {self._process.returncode}{said}",
            hint="apply again: what is done stays done",
        )

    def __enter__(self) -> ClientProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt) or (error is not None and self._owns_app):
            self.kill()
        self.leave()

    def leave(self) -> None:
        """Let go of the run, and wait for the child. Closes: the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process.stdout.close()
        self._errors.close()

    def kill(self) -> None:
        """End the child at once."""
        self._process.kill()
        self._process.wait()


class ClientThread:
    """The client as a thread of a process where `modal run` has started the app: `ClientProcess` without its child."""

    def __init__(self, drive: modal.Function[..., Any, Any]) -> None:
        self._drive = drive
        self._read, self._write = os.pipe()

    def send(self, **order: Any) -> None:
        """Give the only order there is here: `drive`."""
        threading.Thread(target=self._run, args=(order,), name="modalbatch-client", daemon=True).start()

    def events(self, interrupts: Interrupts | None = None, tick_s: float | None = None) -> Iterator[Json | None]:
        """As of `ClientProcess`."""
        yield from read_events(self._read, interrupts, tick_s)

    def died(self) -> UnavailableError:
        """After the events ended without an outcome."""
        return UnavailableError("the client ended", hint="apply again: what is done stays done")

    def kill(self) -> None:
        """Nothing: the app ends with `modal run`."""

    def _run(self, order: Json) -> None:
        from modalbatch.engines import client

        def emit(event: Json) -> None:
            events.write(encode(event) + "\n")
            events.flush()

        with os.fdopen(self._write, "w", encoding="utf-8") as events:
            try:
                asyncio.run(client.conduct(self._drive, order, self._drive.app, emit))
            except ModalbatchError as error:
                emit({"event": "error", "exit_code": error.exit_code, **error.to_json()})


def read_events(fd: int, interrupts: Interrupts | None, tick_s: float | None) -> Iterator[Json | None]:
    """Events from a pipe; see `ClientProcess.events`."""
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        if interrupts:
            selector.register(interrupts.fd, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select(tick_s)}
            if interrupts and interrupts.fd in ready:
                os.read(interrupts.fd, 4096)
            if fd not in ready:
                yield None
                continue
            data = os.read(fd, 1 << 16)
            if not data:
                return
            *lines, received = (received + data).split(b"\n")
            for event in map(json.loads, lines):
                if event["event"] == "error":
                    raise _error(event)
                yield event


def _error(event: Json) -> ModalbatchError:
    error = ModalbatchError(event["message"], hint=event["hint"])
    error.exit_code = event["exit_code"]
    return error
