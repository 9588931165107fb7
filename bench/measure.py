"""Commands with a stopwatch, and a folder of its own for everything that they touch."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODALBATCH = str(Path(sys.executable).with_name("modalbatch"))

#: The handler of all measurements: what a record costs is the same on both sides.
HANDLER = '''\
"""Lower case, word count, a short hash."""

from hashlib import blake2b


def work(record):
    text = record["text"].lower()
    digest = blake2b(text.encode(), digest_size=8).hexdigest()
    return {"id": record["id"], "text": text, "words": len(text.split()), "hash": digest}
'''
SPEC = """\
version: 1
name: bench
handler: handlers:work
source: data/*.jsonl
sink: out/
max_containers: {containers}
image: {{python: "{python}"}}   # the interpreter of the plain loops
"""
_TEXT = "The Quick brown fox jumps over a Lazy dog while records of many words pass by and are counted once each "


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One run of a command."""

    wall_s: float
    #: User and system time of the command and of every process that it waited for.
    cpu_s: float


def environ(root: Path) -> dict[str, str]:
    """The environment of every measured command: state and caches in `root`, bytecode allowed, no account."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MODAL_", "MODALBATCH_")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    own = {"MODALBATCH_HOME": str(root / "home"), "MODALBATCH_CACHE": str(root / "cache")}
    return kept | own | {"MODAL_CONFIG_PATH": os.devnull}


def run(root: Path, command: Sequence[str], *, cwd: Path | None = None) -> Timing:
    """Run a command to its end; a failure ends the measurement with what the command said."""
    os.sync()  # what the run before has left to write is not this one's
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, cwd=cwd or root, env=environ(root), capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - start, os.times()
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Timing(wall_s=wall_s, cpu_s=cpu_s)


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder, removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="modalbatch-bench-"))
    try:
        yield root
    finally:
        shutil.rmtree(root)


def write_job(folder: Path, *, records: int, line_bytes: int, containers: int) -> Path:
    """A job with `records` lines of exactly `line_bytes` bytes; its spec."""
    (folder / "data").mkdir(parents=True)
    (folder / "handlers.py").write_text(HANDLER)
    spec = folder / "job.yaml"
    spec.write_text(SPEC.format(containers=containers, python=".".join(platform.python_version_tuple()[:2])))
    text = _TEXT * (line_bytes // len(_TEXT) + 2)
    with (folder / "data" / "records.jsonl").open("w") as file:
        for i in range(records):
            head = f'{{"id":{i},"text":"'
            begin = i * 7 % len(_TEXT)
            file.write(f'{head}{text[begin : begin + line_bytes - len(head) - 3]}"}}\n')
    return spec


def apply(root: Path, spec: Path) -> Timing:
    """A first run of the job: whatever is in its sink is removed before."""
    shutil.rmtree(spec.parent / "out", ignore_errors=True)
    return run(root, [MODALBATCH, "apply", str(spec), "--engine", "local"])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show(name: str, values: Sequence[float], unit: str = "s") -> None:
    """One line of a table."""
    found = spread(values)
    print(f"{name:<44} {found['median']:>9.3f} {found['min']:>9.3f} {found['max']:>9.3f} {unit}")


def head() -> None:
    """The table's first lines: the machine, and how busy it is."""
    cores = len(os.sched_getaffinity(0))
    print(f"python {platform.python_version()}, {cores} cores, load {os.getloadavg()[0]:.2f}")
    print(f"{'':<44} {'median':>9} {'min':>9} {'max':>9}")


def gate(name: str, value: float, limit: float, aim: float | None = None) -> dict[str, object]:
    """Whether a number keeps its limit, said on a line and returned as data."""
    word = "ok" if value <= limit else "MISSED"
    print(f"{name}: {value:.3f}, limit {limit:g}" + (f", aim {aim:g}" if aim else "") + f": {word}")
    return {"name": name, "value": value, "limit": limit, "aim": aim, "ok": value <= limit}


def save(path: str | None, data: object) -> None:
    """The numbers as JSON, if a file was named."""
    if path:
        Path(path).write_text(json.dumps(data, indent=2) + "\n")
