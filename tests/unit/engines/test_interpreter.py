"""Which Python an image gets, in folders that hold made-up ones."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modalbatch.engines.local.images.interpreter import PYTHONS, choose_interpreter, own_interpreter

OWN = sys.version_info.minor
#: A minor version that the system has nowhere.
WANTED = 99


def install(path: Path, version: str) -> Path:
    """An executable that says it is this Python, and writes down that it was asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho asked >> "{path}.asked"\necho {path}\necho {version}\n')
    path.chmod(0o755)
    return path


def never(minor: int) -> bool:
    """A machine without a network."""
    return False


def n_asked(path: Path) -> int:
    asked = Path(f"{path}.asked")
    return len(asked.read_text().splitlines()) if asked.exists() else 0


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin")}


@pytest.mark.parametrize(
    "place",
    [
        f"bin/python3.{WANTED}",
        f"home/.pyenv/versions/3.{WANTED}.4/bin/python3.{WANTED}",
        f"home/.local/share/uv/python/cpython-3.{WANTED}.4-linux-x86_64-gnu/bin/python3.{WANTED}",
        f"cache/{PYTHONS}/cpython-3.{WANTED}.4-linux-x86_64-gnu/bin/python3.{WANTED}",
    ],
)
def test_it_is_found_wherever_it_is_kept(place: str, tmp_path: Path, environ: dict[str, str]) -> None:
    path = install(tmp_path / place, f"3.{WANTED}.4")
    for _ in range(2):
        found, note = choose_interpreter(f"3.{WANTED}", tmp_path / "cache", environ, never)
        assert (found.path, found.version, note) == (str(path), f"3.{WANTED}.4", "")
    assert n_asked(path) == 1


def test_one_that_is_missing_is_replaced_and_found_once_it_is_there(tmp_path: Path, environ: dict[str, str]) -> None:
    cache = tmp_path / "cache"
    # As pyenv's shims: it is there, and of no use.
    shim = install(tmp_path / "bin" / f"python3.{WANTED}", "")
    for _ in range(3):
        found, note = choose_interpreter(f"3.{WANTED}", cache, environ, never)
        assert found.minor >= OWN
        assert note == f"python 3.{WANTED} is not installed here: using {found.version}"
    assert n_asked(shim) == 1
    path = install(tmp_path / f"home/.pyenv/versions/3.{WANTED}.0/bin/python3.{WANTED}", f"3.{WANTED}.0")
    found, note = choose_interpreter(f"3.{WANTED}", cache, environ, never)
    assert (found.path, note) == (str(path), "")


def test_our_own_is_not_looked_for(tmp_path: Path, environ: dict[str, str]) -> None:
    assert choose_interpreter("", tmp_path / "cache", environ, never) == (own_interpreter(), "")
    assert choose_interpreter(f"3.{OWN}", tmp_path / "cache", environ, never) == (own_interpreter(), "")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", ["", "{", json.dumps({"12": ["/usr/bin/python3.12", "3.12.1"]}), "[]"])
def test_a_cache_that_cannot_be_read_is_made_anew(content: str, tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "interpreters.json").write_text(content)
    path = install(tmp_path / f"bin/python3.{WANTED}", f"3.{WANTED}.4")
    assert choose_interpreter(f"3.{WANTED}", tmp_path / "cache", environ, never)[0].path == str(path)


def test_functions_of_one_app_choose_at_the_same_time(tmp_path: Path, environ: dict[str, str]) -> None:
    for minor in range(WANTED, WANTED + 4):
        install(tmp_path / f"bin/python3.{minor}", f"3.{minor}.4")
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(16) as threads:
        asked = [threads.submit(choose_interpreter, f"3.{WANTED + n % 4}", cache, environ, never) for n in range(64)]
    assert [choice.result()[0].minor for choice in asked] == [WANTED + n % 4 for n in range(64)]
    assert [path.name for path in cache.iterdir()] == ["interpreters.json"]
