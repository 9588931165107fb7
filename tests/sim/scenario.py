"""Small undisturbed stories of an `apply`, and one thing that goes wrong at the k-th step of it, for every k."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from sim.actors import Actor
from sim.volume_world import VolumeWorld
from sim.world import FAULTS, MOST_STEPS, World


def nothing(world: World) -> None:
    """A sink that nobody has used."""


def finished(world: World) -> None:
    """All is done."""
    run_to_end(world, world.apply("v1"))


def other_inputs(world: World) -> None:
    """Two packs; of each, one input has changed since and another is gone."""
    world.inputs = dict.fromkeys("abcdefghijklmnop", 1)
    finished(world)
    world.inputs = {uri: 2 if uri in "ci" else 1 for uri in world.inputs if uri not in "aj"}


def half_done(world: World) -> None:
    """A run of another handler died when it had some receipts."""
    finished(world)
    driver = world.apply("v2")
    n_names = len(world.truth.names)
    while len(world.truth.names) < n_names + 6 and world.step():
        pass
    driver.kill()
    run_to_end(world, None)


def run_to_end(world: World, driver: Actor | None) -> None:
    for _ in range(MOST_STEPS):
        if (driver and driver.is_dead) or not world.step():
            return


#: Name → what has happened, and the handler of the `apply` that follows.
STORIES: dict[str, tuple[Callable[[World], None], str]] = {
    "first": (nothing, "v1"),
    "nothing-to-do": (finished, "v1"),
    "other-handler": (finished, "v2"),
    "other-inputs": (other_inputs, "v1"),
    "half-done": (half_done, "v2"),
}
PLACES: dict[str, tuple[type[World], bool]] = {
    "s3": (World, False),
    "disk": (World, True),
    "volume": (VolumeWorld, False),
}
#: Something is killed at a step of the driver's or of anybody's, or the network does something to the k-th request.
TROUBLES = ("kill driver", "kill all", *FAULTS)


class Disturbed:
    """One story with one trouble; `is_over` when there is no k-th step."""

    def __init__(self, place: str, story: str, trouble: str, at: int, folder: Path, trace: list[str] | None = None):
        world_class, is_local = PLACES[place]
        self.world = world = world_class(1, folder, trace=trace)
        world.is_local = world.is_disk = is_local
        world.fault_rate, world.is_verified, world.on_removed = 0.0, False, "keep"
        world.inputs = dict.fromkeys("abc", 1)
        self.before, self.version = STORIES[story]
        self.trouble, self.at = trouble, at
        self.is_over = False

    def run(self) -> None:
        """To the quiet end.

        Raises:
            Violation: an invariant does not hold.
        """
        world = self.world
        try:
            self.before(world)
            driver = world.apply(self.version)
            if self.trouble in FAULTS:
                self._fail(driver)
            else:
                self._kill(driver)
            world.quiet_end(self.version)
        finally:
            world.close()
            if world.violations:
                raise world.violations[0]

    def _fail(self, driver: Actor) -> None:
        """What only reads can be lost, too."""
        world, n_requests = self.world, itertools.count()
        hook = "strikes" if self.trouble == "lost" else "fault"
        answer, is_struck = (True, False) if self.trouble == "lost" else (self.trouble, "")
        setattr(world, hook, lambda actor: answer if next(n_requests) == self.at else is_struck)
        world.faults = (self.trouble,)
        run_to_end(world, driver)
        self.is_over = next(n_requests) <= self.at
        delattr(world, hook)

    def _kill(self, driver: Actor) -> None:
        world, n_steps = self.world, 0
        while not driver.is_dead and world.step():
            n_steps += 1
            if (driver.n_steps if self.trouble == "kill driver" else n_steps) > self.at:
                break
        self.is_over = driver.is_dead
        driver.kill()
        if self.trouble == "kill all":
            world.restart_engine()
