"""A home, its engine, and ways to be its client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from modalbatch.engines.local import LocalEngine

APPS = Path(__file__).parent / "apps"


def processes_of(home: Path) -> list[int]:
    """Every process that names the home in its command line: the engine, fork servers, containers."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if str(home).encode() in command:
                found.append(int(folder.name))
    return found


def await_none(home: Path) -> None:
    """Returns when no process of the home is left: the kernel needs a moment to end a tree of processes."""
    while processes_of(home):
        time.sleep(0.01)


def run_folder(home: Path) -> Path:
    """The socket folder of the engine of a home."""
    return Path(json.loads((home / "engine.json").read_text())["run_folder"])


@dataclass
class Bench:
    """A home, its engine, and ways to be its client."""

    home: Path
    engine: LocalEngine

    def environ(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
        return clean | self.engine.environ() | {"PYTHONPATH": ""}

    def modal(self, *words: str, code: int | None = 0, cwd: Path = APPS) -> str:
        """Runs the modal command; its output."""
        return self.command(sys.executable, "-m", "modal", *words, code=code, cwd=cwd)

    def python(self, source: str, code: int | None = 0) -> str:
        """Runs a client script; its output."""
        return self.command(sys.executable, "-c", source, code=code)

    def command(self, *words: str, code: int | None = 0, cwd: Path = APPS) -> str:
        done = subprocess.run(
            words, env=self.environ(), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert code is None or done.returncode == code, done.stdout
        return done.stdout

    def run(self, target: str, *words: str, code: int | None = 0) -> dict:
        """`modal run` of an entry point that prints one line of JSON starting with `RESULT`."""
        output = self.modal("run", target, *words, code=code)
        lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
        assert lines, output
        return json.loads(lines[-1].removeprefix("RESULT ")) | {"output": output}

    def start(self, *words: str, cwd: Path = APPS) -> subprocess.Popen:
        """A client that goes on by itself."""
        return subprocess.Popen(
            words, env=self.environ(), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def advance(self, seconds: float) -> None:
        """Puts the clock of an engine that was started with MODALBATCH_CLOCK=socket ahead."""
        with socket.socket(socket.AF_UNIX) as turn:
            while turn.connect_ex(str(run_folder(self.home) / "clock")):
                time.sleep(0.01)  # it is just starting
            turn.sendall(f"{seconds}\n".encode())
            assert turn.recv(100)
