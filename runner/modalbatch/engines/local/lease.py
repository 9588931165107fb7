"""A command's hold on the engine of a home. Runs on: laptop.

Owns starting an engine, joining the one that runs, and leaving. An engine lives as long as somebody holds a connection
to its lease socket, so a command that is killed lets go as surely as one that ends. The sockets are made here, before
the engine process exists: a client may connect at once and is served when the engine is up.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.metadata
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import uv

from modalbatch.engines.local.faults.chaos import VARIABLE, parse
from modalbatch.errors import ModalbatchError, UnavailableError, UsageError

_RUN_PREFIX = "mbe-"
_RECORD = "engine.json"
_LOCK = "engine.lock"
_BACKLOG = 128
#: How long an engine that is stopping may take before a new command gives up on it.
_JOIN_LIMIT_S = 30.0
_RETRY_S = 0.02
#: How long a process that was killed may take to let go of its files.
_DYING_LIMIT_S = 1.0
#: How long an engine may take to greet who joins it.
_ANSWER_LIMIT_S = 10.0
#: Size of `engine.log` at which the next engine begins it anew.
_MAX_LOG_BYTES = 16 << 20
#: Versions of modal that the engine is tested with.
_TESTED = ((1, 4), (1, 7))
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class LocalEngine:
    """One engine per home: starts it, or joins the one that runs. A context manager; leaving it releases our hold.

    Raises: UnavailableError when the engine cannot be started or joined, UsageError for faults that it does not know.
    """

    #: Unique per start of an engine process.
    engine_id: str
    #: Kept in the home, the same across restarts.
    home_id: str

    def __init__(
        self,
        home: Path,
        *,
        containers: int | None = None,
        linger_s: float = 0.02,
        silence_s: float = 90.0,
        chaos: str | None = None,
    ) -> None:
        self._home = Path(home).absolute()
        self._containers = containers
        self._linger_s = linger_s
        self._silence_s = silence_s
        asked = chaos if chaos is not None else os.environ.get(VARIABLE)
        self._chaos = str(parse(asked)) if asked else None
        self._lease: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._record: dict[str, Any] = {}
        self._received = b""
        self._notes: list[str] = []

    def __enter__(self) -> LocalEngine:
        if sys.platform != "linux":
            raise UnavailableError(
                f"the local engine needs Linux: its containers are made of that kernel's parts; this is {sys.platform}",
                hint="--engine modal, or the same command in a Linux container or virtual machine",
            )
        if ":" in str(self._home):
            raise UsageError(f"the home `{self._home}` has a colon in its path, which search paths cannot hold")
        self._home.mkdir(parents=True, exist_ok=True)
        self.home_id = _home_id(self._home)
        end = time.monotonic() + _JOIN_LIMIT_S
        while not (self._start() or self._join()):
            if time.monotonic() > end:
                raise UnavailableError(f"the local engine of {self._home} neither answers nor ends")
            time.sleep(_RETRY_S)
        self.engine_id = self._record["engine_id"]
        self._notes += version_notes(importlib.metadata.version("modal"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lease is None:
            return
        with contextlib.suppress(OSError):
            self._lease.shutdown(socket.SHUT_WR)
        self._listen(block=True)  # until the engine is gone, or has noted that we are
        self._lease.close()
        self._lease = None
        if b'"left"' in self._received:  # others hold it
            return
        if b'"gone"' not in self._received:
            _sweep_if_dead(self._home)
        elif self._process is not None:
            self._process.wait()

    def environ(self) -> dict[str, str]:
        """Variables for a client process, to be put over an environment without any MODAL_* variables."""
        no_proxy = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
        return {
            "MODAL_SERVER_URL": f"unix://{self._record['run_folder']}/api",
            "MODAL_TOKEN_ID": "ak-local",
            "MODAL_TOKEN_SECRET": self._record["token"],
            "MODAL_CONFIG_PATH": os.devnull,
            "MODAL_ENVIRONMENT": "main",
            "MODALBATCH_LOCAL_ENGINE": self.engine_id,
            "NO_PROXY": ",".join(filter(None, [no_proxy, "127.0.0.1"])),
        }

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code of a client process of ours, which is ended when the engine ends under it.

        Raises: UnavailableError in that case: a client alone would go on trying for a minute.
        """
        assert self._lease is not None
        watch = os.pidfd_open(process.pid)
        poller = select.poll()
        for descriptor in (watch, self._lease.fileno()):
            poller.register(descriptor, select.POLLIN)
        try:
            is_over = False
            while not is_over:
                is_over = watch in [descriptor for descriptor, _ in poller.poll()]
                if not self._listen(block=False):
                    process.terminate()
                    process.wait()
                    log = self._home / "engine" / "logs" / "engine.log"
                    raise UnavailableError("the local engine has ended unexpectedly", hint=f"see {log}")
        finally:
            os.close(watch)
        return process.wait()

    def await_detached(self, session: int, tell: Callable[[str], object]) -> None:
        """Returns when no app goes on without its client, which was in that session of processes; says which do."""
        assert self._lease is not None
        self._lease.setblocking(True)
        with contextlib.suppress(OSError):
            self._lease.sendall(f"{session}\n".encode())
            while (names := self._detached()) != []:
                if not (data := self._lease.recv(65536)):
                    return
                self._received += data
                if names is None and (names := self._detached()):
                    tell(f"note: {', '.join(names)}: detached, goes on; waiting for its end, Ctrl-C ends it now")

    def _detached(self) -> list[str] | None:
        """What the engine has said last about apps that go on."""
        said = [item["detached"] for item in self._told() if "detached" in item]
        return said[-1] if said else None

    @property
    def notes(self) -> list[str]:
        """What a person must know about this engine, as far as it is known now."""
        self._listen(block=False)
        return self._notes + [text for item in self._told() for text in item.get("notes", [])]

    @property
    def summary(self) -> str:
        """After our hold has ended: the faults that the engine has injected so far, in a line; empty without chaos."""
        return next((str(item["summary"]) for item in self._told() if "summary" in item), "")

    def _told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._received.split(b"\n")[:-1]]

    def _start(self) -> bool:
        """Starts an engine, unless there is one."""
        lock = os.open(self._home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        _sweep(self._home)
        folder = Path(tempfile.mkdtemp(prefix=_RUN_PREFIX, dir=_short_folder()))
        self._record = {
            "chaos": self._chaos,
            "containers": self._containers,
            "engine_id": secrets.token_hex(8),
            "token": f"as-{secrets.token_hex(16)}",
            "run_folder": str(folder),
        }
        _write_private(self._home / _RECORD, json.dumps(self._record))
        with _listening(folder / "api") as api, _listening(folder / "lease") as leases:
            # Our hold waits in the queue before the engine exists: it cannot start without one.
            self._lease = _connect(folder / "lease")
            self._spawn(lock, api, leases)
        os.close(lock)  # the engine has a copy, and with it the lock
        return True

    def _spawn(self, lock: int, api: socket.socket, leases: socket.socket) -> None:
        log_folder = self._home / "engine" / "logs"
        log_folder.mkdir(parents=True, exist_ok=True)
        options = {
            **self._record,
            "home": str(self._home),
            "lock": lock,
            "api": api.fileno(),
            "leases": leases.fileno(),
            "containers": self._containers,
            "linger_s": self._linger_s,
            "silence_s": self._silence_s,
            "uv_path": uv.find_uv_bin(),
        }
        log_path = log_folder / "engine.log"
        is_full = log_path.exists() and log_path.stat().st_size > _MAX_LOG_BYTES
        with log_path.open("wb" if is_full else "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "modalbatch.engines.local.main", json.dumps(options)],
                pass_fds=[lock, api.fileno(), leases.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )

    def _join(self) -> bool:
        """Joins the engine that runs; False when it is just starting or stopping."""
        try:
            self._record = json.loads((self._home / _RECORD).read_text())
            self._lease = _connect(Path(self._record["run_folder"]) / "lease")
            greeting = self._lease.recv(65536)
        except (OSError, ValueError):
            return False
        self._received = greeting
        if self._containers is not None and self._record["containers"] != self._containers:
            limit = self._record["containers"] or "as many as cores"
            self._notes.append(f"the engine that runs already keeps its own limit of containers per function: {limit}")
        if self._chaos != self._record.get("chaos"):
            said = self._record.get("chaos") or "none"
            self._notes.append(f"the engine that runs already keeps its own faults: {said}")
        return bool(greeting)

    def _listen(self, *, block: bool) -> bool:
        """Takes what the engine has said, with `block` until it closes the connection; False when it has."""
        if self._lease is None:
            return False
        self._lease.setblocking(block)
        try:
            while data := self._lease.recv(65536):
                self._received += data
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def run_command(
    home: Path,
    command: Sequence[str],
    *,
    containers: int | None = None,
    chaos: str | None = None,
    tell: Callable[[str], object] = lambda _text: None,
) -> int:
    """Runs a command against the engine of a home and returns its exit code (128 + N for a signal N).

    SIGINT and SIGTERM go on to the command, which is in a session of its own and gets each exactly once. `tell` gets
    what a person must know, before the command starts and after its end, and the summary of injected faults.
    """
    with LocalEngine(home, containers=containers, chaos=chaos) as engine:
        told = engine.notes
        for note in told:
            tell(f"note: {note}")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
        try:
            process = subprocess.Popen(
                command,
                env=environ | engine.environ(),
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509
            )
        except OSError as error:
            raise ModalbatchError(f"cannot run `{command[0]}`: {error.strerror}") from error

        def forward(number: int, frame: FrameType | None) -> None:
            process.send_signal(number)

        old = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = engine.wait(process)
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        engine.await_detached(process.pid, tell)
    for note in [note for note in engine.notes if note not in told]:
        tell(f"note: {note}")
    if engine.summary:
        tell(engine.summary)
    return code if code >= 0 else 128 - code


def _end_with_parent() -> None:
    """In the command, before it starts: SIGTERM when we are killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _home_id(home: Path) -> str:
    path = home / "home_id"
    if not path.exists():
        draft = home / f"home_id.{os.getpid()}"
        draft.write_text(secrets.token_hex(8))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # whoever is first wins
        draft.unlink()
    return path.read_text().strip()


def _sweep_if_dead(home: Path) -> None:
    """Sweeps unless an engine lives, which then holds the lock; one that dies lets go of it last."""
    lock = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + _DYING_LIMIT_S
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sweep(home)
            break
        time.sleep(_RETRY_S)
    os.close(lock)


def _sweep(home: Path) -> None:
    """Removes what a killed engine left; called with the lock held."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        folder = Path(json.loads((home / _RECORD).read_text())["run_folder"])
        if folder.name.startswith(_RUN_PREFIX) and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        (home / _RECORD).unlink()


def _short_folder() -> str:
    """A temporary folder whose name leaves room in the 108 bytes of a socket's path."""
    return "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else tempfile.gettempdir()  # noqa: S108


def _write_private(path: Path, text: str) -> None:
    handle, draft = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(draft).replace(path)


def _listening(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(_BACKLOG)
    return made


def _connect(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(_ANSWER_LIMIT_S)
    try:
        made.connect(str(path))
    except OSError:
        made.close()
        raise
    return made


def version_notes(version: str) -> list[str]:
    """What a person must know about a version of modal; nothing for one that the engine is tested with."""
    first, last = _TESTED
    if first <= tuple(int(part) for part in version.split(".")[:2]) < last:
        return []
    tested = f">={first[0]}.{first[1]},<{last[0]}.{last[1]}"
    return [f"modal {version} is outside the range that the local engine is tested with ({tested})"]
