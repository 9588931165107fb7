"""What the index does for a split does not grow with the number of splits: a query that scans makes days of minutes."""

from __future__ import annotations

import sqlite3

import pytest

from modalbatch.driver import run
from modalbatch.driver.index import Index
from unit.driver.large_run import runs

FEW, MANY = 250, 2000
#: Instructions of SQLite's machine.
STEP = 100


def _steps_a_split(folder, monkeypatch, n_units: int, versions: list[str]) -> list[float]:
    """Of each run."""
    n_steps = 0

    def note() -> None:
        nonlocal n_steps
        n_steps += STEP

    class Counted(Index):
        def __init__(self, database: sqlite3.Connection) -> None:
            super().__init__(database)
            self._db.set_progress_handler(note, STEP)

    monkeypatch.setattr(run, "Index", Counted)
    folder.mkdir()
    found = []
    for outcome in runs(folder, n_units, versions):
        assert outcome["exit_code"] == 0, outcome
        found.append(n_steps / n_units)
        n_steps = 0
    return found


@pytest.mark.parametrize("versions", [["v1", "v1"], ["v1", "v2", "v1"]], ids=["nothing to do", "another handler"])
def test_steps_a_split(tmp_path, monkeypatch, versions) -> None:
    few, many = (_steps_a_split(tmp_path / str(n), monkeypatch, n, versions) for n in (FEW, MANY))
    assert all(large < 1.5 * small for small, large in zip(few, many, strict=True)), (few, many)
