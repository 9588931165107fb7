"""The real command in a process of its own, and what it leaves, read without the code under test."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent


@dataclass
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """What `--json` printed."""
        return json.loads(self.out)


class Running:
    """A command that goes on; its lines on stderr can be waited for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def wait_for(self, text: str) -> str:
        """The first line from here on that holds `text`; fails when the command ends before it."""
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"{text!r} was never said:\n{''.join(self.lines)}")

    def end(self) -> Done:
        """Wait for the command."""
        out, err = self.process.communicate()
        return Done(self.process.returncode, out, "".join(self.lines) + err)


@dataclass
class Command:
    """Runs `modalbatch`, or another program of the environment, as a user of `home` would."""

    home: Path
    cwd: Path
    environ: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *args: str, program: str = "modalbatch", stdin: str | None = None, **environ: str) -> Done:
        process = self._popen(program, args, environ)
        out, err = process.communicate(stdin)
        return Done(process.returncode, out, err)

    def start(self, *args: str, program: str = "modalbatch", **environ: str) -> Running:
        """Without waiting."""
        self.started.append(self._popen(program, args, environ))
        return Running(self.started[-1])

    def close(self) -> None:
        """Kill what a test that failed left waiting."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def _popen(self, program: str, args: tuple[str, ...], environ: dict[str, str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        # As in an activated environment; marks stand at the end too, since containers are given PATH and little else.
        path = os.pathsep.join([str(BIN), os.environ["PATH"], *(f"/{name}" for name in self.environ)])
        variables = {**os.environ, "PATH": path, "MODALBATCH_HOME": str(self.home), **self.environ, **environ}
        command = [str(BIN / program), *args]
        return subprocess.Popen(command, cwd=self.cwd, env=variables, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def processes(mark: str) -> Iterator[Path]:
    """`/proc` folders of processes with a variable of this name."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                yield folder
        except OSError:
            continue


def remaining(mark: str) -> list[str]:
    """Commands of processes with a variable of this name, once each had the time to end."""
    left = []
    for folder in processes(mark):
        try:
            handle = os.pidfd_open(int(folder.name))
        except ProcessLookupError:
            continue
        if not _has_ended(handle):
            left.append((folder / "cmdline").read_text().replace("\0", " "))
    return left


def _has_ended(handle: int) -> bool:
    """Whether a process ends; it is told nothing, and given what a slow machine needs to tidy up."""
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(20_000))
    finally:
        os.close(handle)


def live_records(sink: Path) -> list[dict]:
    """Records of the newest manifest, read without the code under test."""
    names = sorted((sink / "_modalbatch").glob("manifest-??????.json"))
    manifest = json.loads(names[-1].read_text())
    records = []
    for segment in manifest["segments"]:
        for line in (sink / segment["name"]).read_text().splitlines():
            for name, _, _, _ in json.loads(line)["parts"]:
                records += [json.loads(item) for item in (sink / name).read_text().splitlines()]
    return records


def write_records(path: Path, records: list[dict]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
