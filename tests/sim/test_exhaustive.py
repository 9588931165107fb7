"""One thing goes wrong, at every step at which it can: the next `apply` finishes, and does nothing twice."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest

from sim.actors import Violation
from sim.scenario import PLACES, STORIES, TROUBLES, Disturbed


def every_step(task: tuple[str, str, str]) -> tuple[int, list[str]]:
    """How many steps there were, and what went wrong after trouble at which."""
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for at in itertools.count():
            disturbed = Disturbed(*task, at, Path(folder))
            try:
                disturbed.run()
            except Violation as violation:
                failures.append(f"{violation}\n  python tests/sim/replay.py {'/'.join(task).replace(' ', '-')} {at}")
            if disturbed.is_over:
                return at, failures
    raise AssertionError


@pytest.mark.parametrize("place", list(PLACES))
def test_one_trouble_at_every_step(place: str) -> None:
    """F01-F05 D, F07-F10 D, F19 D, F20 D"""
    # A file in a folder is written or it is not: all that can happen to it is an error.
    troubles = [trouble for trouble in TROUBLES if place == "s3" or trouble.startswith(("kill", "lost"))]
    tasks = [(place, story, trouble) for story in STORIES for trouble in troubles]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        found = pool.map(every_step, tasks, chunksize=1)
    failures = [failed for _, failures in found for failed in failures]
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures[:10])
    assert min(n_steps for n_steps, _ in found) > 5
    print(f"{place}: {sum(n_steps for n_steps, _ in found)} runs")
