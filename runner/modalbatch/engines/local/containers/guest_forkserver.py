"""The fork server of one image environment: imports Modal's runtime once, forks a container per request.

Runs on: container. Owns the life of containers as processes: fork, walls, first process, exit status. Refuses to run
user code itself: only forked children do. It is run by path under the environment's interpreter, with the standard
library and that environment's modal, and speaks JSON datagrams over the socket whose number is its first argument:

    engine → server   {"op": "start", "id": ..., "spec": PATH} with two descriptors (stdout, stderr)
                      {"op": "signal", "id": ..., "signal": N}
                      {"op": "mount", "id": ..., "binds": [...], "scratch": PATH}
    server → engine   {"event": "ready", "namespaces": BOOL, "overlays": BOOL}
                      {"event": "exit", "id", "code"}
                      {"event": "mounted", "id", "code"}, one for each request, in their order
"""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import importlib
import importlib.util
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

_ENTRYPOINT = "modal._container_entrypoint"
_MAX_MESSAGE_BYTES = 65536

if TYPE_CHECKING:
    from modalbatch.engines.local.containers import guest_isolation as isolation
else:
    _spec = importlib.util.spec_from_file_location("_isolation", Path(__file__).with_name("guest_isolation.py"))
    isolation = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(isolation)


class ForkServer:
    """The loop that turns requests into containers; one per process, single-threaded so that forking is safe."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pids: dict[str, int] = {}
        self._watched: dict[int, str] = {}
        self._poller = select.poll()
        self._poller.register(control.fileno(), select.POLLIN)

    def serve(self, folder: str) -> dict[str, Any] | None:
        """Serves until the engine closes the socket (None); in a forked child it returns the request for it.

        `folder` is on the file system of the home.
        """
        namespaces, overlays = isolation.probe(folder)
        self._send({"event": "ready", "namespaces": namespaces, "overlays": overlays})
        while True:
            for descriptor, _ in self._poller.poll():
                if descriptor != self._control.fileno():
                    self._reap(descriptor)
                    continue
                message, descriptors = self._receive()
                if message is None:
                    return None
                if message["op"] == "signal":
                    self._signal(message["id"], message["signal"])
                    continue
                if message["op"] == "mount":
                    self._mount(message)
                    continue
                spec = self._start(message, descriptors)
                if spec is not None:
                    return spec

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any] | None:
        pid = os.fork()
        if pid == 0:
            self._control.close()
            return {"spec": message["spec"], "output": descriptors}
        for descriptor in descriptors:
            os.close(descriptor)
        self._pids[message["id"]] = pid
        watch = os.pidfd_open(pid)
        self._watched[watch] = message["id"]
        self._poller.register(watch, select.POLLIN)
        return None

    def _reap(self, watch: int) -> None:
        container_id = self._watched.pop(watch)
        self._poller.unregister(watch)
        os.close(watch)
        _, status = os.waitpid(self._pids.pop(container_id), 0)
        self._send({"event": "exit", "id": container_id, "code": os.waitstatus_to_exitcode(status)})

    def _signal(self, container_id: str, number: int) -> None:
        pid = self._pids.get(container_id)
        if pid is not None:  # our own child that was not waited for: the number cannot have been reused
            # Stopping the keeper alone would stop nothing else; its group is the whole container.
            (os.killpg if number == signal.SIGSTOP else os.kill)(pid, number)

    def _mount(self, message: dict[str, Any]) -> None:
        pid = self._pids.get(message["id"])
        code = errno.ESRCH if pid is None else isolation.mount_anew(pid, message["binds"], message["scratch"])
        self._send({"event": "mounted", "id": message["id"], "code": code})

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps(message).encode())

    def _receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        descriptors = array.array("i")
        data, extra, _, _ = self._control.recvmsg(_MAX_MESSAGE_BYTES, socket.CMSG_SPACE(2 * descriptors.itemsize))
        for _, _, payload in extra:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
        return (json.loads(data) if data else None), list(descriptors)


def become_container(request: dict[str, Any]) -> None:
    """Turns this fork into a container: three processes (keeper, init, main), of which only main returns from here."""
    spec = json.loads(Path(request["spec"]).read_text())
    for target, source in enumerate([os.open(os.devnull, os.O_RDONLY), *request["output"]]):
        os.dup2(source, target)
    os.closerange(3, 1024)
    os.setsid()
    os.chdir(spec["cwd"])
    has_namespaces = spec["namespaces"] and isolation.enter_namespaces()
    if not has_namespaces:
        isolation.adopt_orphans()
    isolation.die_with_parent()
    init = os.fork()
    if init != 0:
        _keep(init, kill_others=not has_namespaces)
    isolation.die_with_parent()
    if has_namespaces:
        _mount(spec)
    else:
        isolation.adopt_orphans()
    main = os.fork()
    if main != 0:
        _keep(main, kill_others=not has_namespaces)
    with contextlib.suppress(OSError):  # here only: a working folder in a volume would keep it from being reloaded
        os.chdir(spec["workdir"] or spec["cwd"])
    if not has_namespaces:
        isolation.die_with_parent()
    _dress(spec)


def _mount(spec: dict[str, Any]) -> None:
    try:
        refused = isolation.mount_folders(spec["binds"], spec["scratch"], spec["layers"], spec["workdir"])
        for place in refused if spec["layers"] and spec["layers"]["tells"] else []:
            os.write(2, f"Runner: {place} is the host's own: what is written there is not part of the image\n".encode())
        isolation.mount_proc()
    except OSError as error:
        # User code that does not find its volumes would write elsewhere, and succeed.
        os.write(2, f"Runner: folders cannot be mounted: {error}\n".encode())
        os._exit(1)


def _keep(child: int, *, kill_others: bool = False) -> NoReturn:
    """Waits for a child as a minimal init: forwards signals, reaps orphans, ends with the child's status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: os.kill(child, got))
    for descriptor in (0, 1, 2):
        os.close(descriptor)  # the log ends when main and what it started are gone
    while True:
        pid, status = os.wait()
        if pid == child:
            break
    if kill_others:
        _kill_descendants()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _kill_descendants() -> None:
    """Kills what a container left running, where no PID namespace does it: this process adopts every orphan."""
    while True:
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        except OSError:
            return
        if not children:
            return
        for pid in children:
            os.kill(int(pid), signal.SIGKILL)
            os.waitpid(int(pid), 0)


def _dress(spec: dict[str, Any]) -> None:
    """Gives main the environment, search path and streams of a fresh interpreter in the container."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(spec["environ"])
    time.tzset()
    sys.path[:0] = spec["path"]
    sys.argv = [_ENTRYPOINT]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1
    )
    sys.__stdout__, sys.__stderr__, sys.__stdin__ = sys.stdout, sys.stderr, sys.stdin  # type: ignore[misc]
    random.seed()
    gc.enable()
    with contextlib.suppress(OSError):
        # Under memory pressure the kernel takes a container before the engine or the user's shell.
        Path("/proc/self/oom_score_adj").write_text("300")


def main() -> None:
    """Imports the runtime, then serves; in a child, runs Modal's container entrypoint as `python -m` would."""
    isolation.die_with_parent()
    if os.getppid() != int(sys.argv[2]):
        return
    os.environ["MODAL_IS_REMOTE"] = "1"
    sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).parent)]
    importlib.import_module(_ENTRYPOINT)
    # A second import as __main__ is what starts it: forget the first, keep everything that it imported.
    del sys.modules[_ENTRYPOINT]
    gc.collect()
    gc.freeze()
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = ForkServer(socket.socket(fileno=int(sys.argv[1]))).serve(str(Path(sys.argv[3]).parent))
    if request is not None:
        become_container(request)
        runpy.run_module(_ENTRYPOINT, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
