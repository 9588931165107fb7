"""Random schedules of `apply`: the protocol passes all of them.

More of them: `make soak`. One of them again, with its story: the line that a failure prints.
"""

from __future__ import annotations

import multiprocessing
import os

import pytest

from sim.schedule import chunk

N_SCHEDULES = {"plain": 5500, "divided": 1000, "hurried": 500, "vandalised": 800, "volume": 2000, "raced": 200}
CHUNK = 50


@pytest.mark.parametrize("kind", list(N_SCHEDULES))
def test_no_schedule_breaks_an_invariant(kind: str) -> None:
    """F01-F05 D, F07-F10 D, F14-F20 D, F29-F31 D, F57 D, F61 D, F70 D,
    F04 V, F07 V, F10 V, F14-F16 V, F29 V, F31 V, F58 V, F59 V, F61 V, F62 V, F70 V"""
    n_schedules = N_SCHEDULES[kind]
    tasks = [(kind, first, CHUNK) for first in range(0, n_schedules, CHUNK)]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        failures = [failed for found in pool.imap_unordered(chunk, tasks) for failed in found]
    assert not failures, f"{len(failures)} of {n_schedules} schedules:\n" + "\n".join(failures[:10])
