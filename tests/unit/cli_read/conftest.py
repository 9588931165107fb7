"""A sink that was really run, and the command in this process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from modalbatch.cli import main
from sample_sink import Sample, filled


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Sample:
    return filled(tmp_path_factory.mktemp("once"), bad=2, compression="gz")


@pytest.fixture
def made(once: Sample, tmp_path: Path, monkeypatch) -> Sample:
    """A copy of its own; the current folder."""
    copy = Sample(tmp_path / "copy", compression="gz")
    shutil.rmtree(copy.folder)
    shutil.copytree(once.folder, copy.folder)
    monkeypatch.chdir(copy.folder)
    monkeypatch.setenv("MODALBATCH_ENGINE", "local")
    return copy


@pytest.fixture
def modalbatch(capfdbinary):
    """Run one command line."""

    def run(*args: str) -> Said:
        capfdbinary.readouterr()
        code = main(args)
        out, err = capfdbinary.readouterr()
        return Said(code, out.decode(), err.decode())

    return run
