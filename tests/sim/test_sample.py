"""A few schedules in this process: what coverage and mutants see. One seed is one schedule, whatever the process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sim.scenario import PLACES, STORIES, Disturbed
from sim.schedule import KINDS, failures, run_schedule

N_SCHEDULES = 25


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_few_schedules(kind: str) -> None:
    assert list(failures(kind, range(10_000_000, 10_000_000 + N_SCHEDULES))) == []


@pytest.mark.parametrize("place", list(PLACES))
@pytest.mark.parametrize("story", list(STORIES))
def test_every_story_ends_well(place: str, story: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        disturbed = Disturbed(place, story, "kill driver", 10**9, Path(folder))
        disturbed.run()
    assert disturbed.is_over


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_seed_is_one_schedule(kind: str, tmp_path: Path) -> None:
    replay = [sys.executable, str(Path(__file__).with_name("replay.py")), kind, "7"]
    told = [
        subprocess.run(
            replay, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    ]
    trace: list[str] = []
    run_schedule(kind, 7, tmp_path, trace)
    assert told[0] == told[1] == "\n".join([*trace, "no invariant was broken\n"])
