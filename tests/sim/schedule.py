"""One seed, one schedule: which kinds there are, and the line that repeats one that failed."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sim.actors import Violation
from sim.chaos import ACTIONS, HURRIED_ACTIONS, Action, another_driver, chaos
from sim.volume_world import VOLUME_ACTIONS, VolumeWorld
from sim.world import World


class Kind(NamedTuple):
    """Where schedules happen, and what."""

    world_class: type[World]
    actions: list[Action]
    #: At least, and less than.
    n_steps: tuple[int, int] = (60, 320)
    #: Whether somebody deletes what is live.
    is_vandalised: bool = False
    #: How many times as often as usual splits are divided: one of these.
    division_rates: tuple[int, ...] = (0, 1)


KINDS = {
    "plain": Kind(World, ACTIONS),
    "hurried": Kind(World, HURRIED_ACTIONS, (200, 600), division_rates=(0,)),
    "divided": Kind(World, ACTIONS, division_rates=(5, 10)),
    "vandalised": Kind(World, ACTIONS, is_vandalised=True),
    "volume": Kind(VolumeWorld, VOLUME_ACTIONS),
    "raced": Kind(VolumeWorld, [Action(15, another_driver), *VOLUME_ACTIONS], (200, 600), division_rates=(0,)),
}


def run_schedule(kind: str, seed: int, folder: Path, trace: list[str] | None = None) -> World:
    """One schedule, to its quiet end.

    Raises:
        Violation: an invariant does not hold.
    """
    chosen = KINDS[kind]
    world = chosen.world_class(seed, folder, is_vandalised=chosen.is_vandalised, trace=trace)
    world.division_rate = world.rng.choice(chosen.division_rates)
    try:
        chaos(world, world.rng.randrange(*chosen.n_steps), chosen.actions)
        world.quiet_end()
    finally:
        world.close()
        if world.violations:
            raise world.violations[0]
    return world


def failures(kind: str, seeds: Iterable[int], mutant: str = "") -> Iterator[str]:
    """What went wrong in each of the schedules that failed, with the line that repeats it; lazy."""
    folder = tempfile.mkdtemp(prefix="modalbatch-sim-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    gc.freeze()
    try:
        for seed in seeds:
            try:
                run_schedule(kind, seed, Path(folder))
            except Violation as violation:
                yield f"{violation}\n  python tests/sim/replay.py {kind} {seed} {mutant}".rstrip()
    finally:
        shutil.rmtree(folder)


def chunk(task: tuple[str, int, int]) -> list[str]:
    """`failures`, for a process of a pool: kind, first seed, how many."""
    kind, first, n_seeds = task
    return list(failures(kind, range(first, first + n_seeds)))
