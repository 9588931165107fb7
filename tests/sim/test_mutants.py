"""Each variant of the protocol that is broken on purpose is caught: the schedules can fail.

`pytest tests/sim/test_mutants.py -s` says how many schedules each took.
"""

from __future__ import annotations

import itertools

import pytest

from sim.mutants import MUTANTS
from sim.schedule import failures

#: Schedules that a broken variant may survive before it must be caught.
MOST_SCHEDULES = 2000


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_broken_protocol_is_caught(name: str) -> None:
    seeds = itertools.count()
    with MUTANTS[name].broken():
        tried = itertools.islice(seeds, MOST_SCHEDULES)
        failure = next(failures(MUTANTS[name].kind, tried, name), None)
    assert failure, f"{name} survived {MOST_SCHEDULES} schedules"
    print(f"{name}: caught after {next(seeds)} schedules: {failure}")
