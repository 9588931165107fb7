"""A folder to work in and the real command in it, with a home of its own."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command import Command, remaining, write_records

#: Several sessions of pytest may run on one machine.
SESSION = secrets.token_hex(4)
SPECS = Path(__file__).resolve().parents[2] / "specs"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def modalbatch(tmp_path: Path, work: Path) -> Iterator[Command]:
    """The command, in `work`; nothing that it started runs afterwards, even where it was killed."""
    mark = f"MODALBATCH_TEST_{SESSION}_{tmp_path.name}"
    command = Command(tmp_path / "home", work, {mark: "1"})
    yield command
    command.close()
    assert remaining(mark) == []


@pytest.fixture
def example(work: Path) -> Callable[[str], Path]:
    """Copies an example spec into `work`: the path of its YAML file, relative."""

    def copy(name: str) -> Path:
        shutil.copytree(SPECS / name, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("out", "__pycache__"))
        return Path(f"{name}.yaml")

    return copy


# The Python of the tests, so that what is said does not depend on which others are installed.
SQUARES = f"""\
version: 1
name: squares
handler: handlers:square
source: {{uri: data/*.jsonl, split: {{files: 1}}}}
sink: out/
image: {{python: "3.{sys.version_info.minor}"}}
"""
HANDLER = """\
def square(record):
    return {"n": record["n"], "square": record["n"] ** 2}
"""


@pytest.fixture
def squares(work: Path) -> Path:
    """A job of two files with five records each, in `work`; its sink."""
    (work / "squares.yaml").write_text(SQUARES)
    (work / "handlers.py").write_text(HANDLER)
    for name in ("a", "b"):
        write_records(work / f"data/{name}.jsonl", [{"n": n} for n in range(5)])
    return work / "out"


GATED = """\
import pathlib
import time


def wait(record):
    print("working on", record["n"], flush=True)
    while not pathlib.Path(record["gate"]).exists():
        time.sleep(0.01)
    return {"n": record["n"]}
"""


@pytest.fixture
def gate(work: Path) -> Path:
    """A job `gated.yaml` of 30 files whose records wait until this file exists."""
    gate = work / "gate"
    (work / "gated.yaml").write_text(SQUARES.replace("squares", "gated").replace("handlers:square", "gates:wait"))
    (work / "gates.py").write_text(GATED)
    for n in range(30):
        write_records(work / f"data/{n:02}.jsonl", [{"n": n, "gate": str(gate)}])
    return gate
