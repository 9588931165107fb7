"""Each variant of the protocol that is broken on purpose is caught: the schedules can fail.

`pytest tests/sim/test_mutants.py -s` says which schedule caught each.
"""

from __future__ import annotations

from itertools import chain, count, islice

import pytest

from sim.mutants import MUTANTS
from sim.schedule import failures

#: Schedules that a broken variant may survive before it must be caught.
MOST_SCHEDULES = 2000
#: Seeds that have caught those that live long, tried first. A change of the protocol may make others of them.
CAUGHT_BY = {
    "decisions_are_not_noted": (162, 555),
    "ended_runs_still_run": (466, 522),
    "gone_inputs_go_with_their_split": (103, 105),
    "orphans_of_any_age": (114, 196),
    "platform_never_kills": (642, 707),
    "success_of_any_manifest": (122, 261),
    "torn_parts_count": (130, 560),
    "void_names_count_again": (1037, 1302),
    "what_was_done_instead_is_forgotten": (307, 329),
}


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_broken_protocol_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    seeds = islice(chain(CAUGHT_BY.get(name, ()), count()), MOST_SCHEDULES)
    with mutant.broken():
        failure = next(failures(mutant.kind, seeds, name), None)
    assert failure, f"{name} survived {MOST_SCHEDULES} schedules"
    print(f"{name}: {failure}")
