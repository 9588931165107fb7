"""Random interleavings of `apply`, and of broken variants of it: the protocol passes, each variant is caught.

MODALBATCH_SCHEDULES=100000 pytest tests/fault/test_schedules.py      more of them
PYTHONPATH=tests:tests/fault python -m test_schedules plain 1234            one of them again
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

import mutants
import pytest
from simulation import Violation, simulate

N_SCHEDULES = int(os.environ.get("MODALBATCH_SCHEDULES", "2000"))
FIRST_SEED = int(os.environ.get("MODALBATCH_FIRST_SEED", "0"))
CHUNK = 50
#: Schedules that a broken variant may survive before it must be caught.
MUTANT_SCHEDULES = 400


def failure_of(kind: str, seed: int) -> str | None:
    """What went wrong in one schedule, with the line that repeats it."""
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder:
        tempfile.tempdir = folder
        try:
            simulate(seed, Path(folder), is_vandalised=kind == "vandalised")
        except Violation as violation:
            return f"{violation}\n  PYTHONPATH=tests:tests/fault python -m test_schedules {kind} {seed}"
        finally:
            tempfile.tempdir = None
    return None


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _chunk(task: tuple[str, int, int]) -> list[str]:
    kind, start, n_schedules = task
    return [failed for seed in range(start, start + n_schedules) if (failed := failure_of(kind, seed))]


def _first_failure(name: str) -> str | None:
    with mutants.MUTANTS[name]():
        return next((failed for seed in range(MUTANT_SCHEDULES) if (failed := failure_of("plain", seed))), None)


@pytest.mark.parametrize("kind", ["plain", "vandalised"])
def test_no_schedule_breaks_an_invariant(kind: str) -> None:
    n_schedules = N_SCHEDULES if kind == "plain" else N_SCHEDULES // 8
    tasks = [
        (kind, start, min(CHUNK, FIRST_SEED + n_schedules - start))
        for start in range(FIRST_SEED, FIRST_SEED + n_schedules, CHUNK)
    ]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        failures = [failed for found in pool.imap_unordered(_chunk, tasks) for failed in found]
    assert not failures, f"{len(failures)} of {n_schedules} schedules:\n" + "\n".join(failures[:10])


@pytest.mark.parametrize("name", list(mutants.MUTANTS))
def test_a_broken_protocol_is_caught(name: str) -> None:
    assert _first_failure(name), f"{name} survived {MUTANT_SCHEDULES} schedules"


if __name__ == "__main__":
    print(failure_of(sys.argv[1], int(sys.argv[2])) or "no invariant was broken")
