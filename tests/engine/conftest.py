"""The real modal client against an engine in a temporary home; every test leaves the machine as it found it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_bench import Bench, await_none, processes_of, run_folder

from modalbatch.engines.local import LocalEngine


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Image environments are built once for all tests."""
    folder = os.environ.get("MODALBATCH_TEST_CACHE") or str(tmp_path_factory.mktemp("cache"))
    old = os.environ.get("MODALBATCH_CACHE")
    os.environ["MODALBATCH_CACHE"] = folder
    yield
    os.environ.pop("MODALBATCH_CACHE")
    if old is not None:
        os.environ["MODALBATCH_CACHE"] = old


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One engine for the tests of a module; when it is left, nothing of it is."""
    home = tmp_path_factory.mktemp("home")
    with LocalEngine(home) as engine:
        yield Bench(home, engine)
        folder = run_folder(home)
    assert processes_of(home) == []
    assert not folder.exists()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home for tests that start and kill engines themselves."""
    folder = tmp_path / "home"
    folder.mkdir()
    yield folder
    await_none(folder)
