"""What happens to a world between the steps of its processes; an action more is a function and a line of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from memory_store import MemoryStore
from modalbatch.driver.runs import ask_to_stop
from modalbatch.sinks.objects import ObjectSink

if TYPE_CHECKING:
    from sim.world import World

TEN_YEARS_S = 10 * 365 * 86_400


def another_apply(world: World) -> None:
    """With what the source holds now, of this handler or another."""
    rng = world.rng
    if len(world.drivers()) < 3:
        change_inputs(world)
        world.apply(rng.choice(["v1", "v1", "v2"]), keep=rng.random() < 0.1)


def another_driver(world: World) -> None:
    """Of a run that has one already."""
    if world.drivers() and not world.is_local:
        first = world.rng.choice(world.drivers())
        world.apply(first.version, again=first.request)


def change_inputs(world: World) -> None:
    rng, roll = world.rng, world.rng.random()
    if roll < 0.3:
        world.inputs = world.inputs | {rng.choice(world.names): rng.randrange(2)}
    elif roll < 0.5 and len(world.inputs) > 1:
        gone = rng.choice(sorted(world.inputs))
        world.inputs = {uri: version for uri, version in world.inputs.items() if uri != gone}


def some_time(world: World) -> None:
    world.time_s += world.rng.choice([0.1, 1, 1, 5, 30])


def a_moment(world: World) -> None:
    world.time_s += world.rng.choice([0.1, 1])


def much_time(world: World) -> None:
    world.time_s += world.rng.choice([60, 60, 1000])


def kill(world: World) -> None:
    if world.actors:
        world.rng.choice(world.actors).kill()


def kill_engine(world: World) -> None:
    if world.is_local:
        world.restart_engine()


def freeze(world: World) -> None:
    """SIGSTOP, and SIGCONT much later."""
    if world.actors:
        actor = world.rng.choice(world.actors)
        actor.frozen_until_s = world.time_s + world.rng.choice([10, 40, 300])
        world.tell(f"{actor.name} is frozen until {actor.frozen_until_s:.1f}")


def stop(world: World) -> None:
    """Somebody asks a run to stop."""
    if drivers := world.drivers():
        run_id = world.rng.choice(drivers).request.run_id
        world.tell(f"run {run_id} is asked to stop")
        ask_to_stop(ObjectSink(MemoryStore(world.truth, world.spool_dir)), run_id, "")


def jump_machine(world: World) -> None:
    """The clocks of drivers are set: nothing may be decided by them."""
    if not world.is_local:
        world.machine_ahead_s += world.rng.choice([-3600, TEN_YEARS_S, -TEN_YEARS_S])
        world.tell(f"the machines' clocks are {world.machine_ahead_s:.0f} s ahead")


def jump_store(world: World) -> None:
    """The store's clock is set: forward only while no attempt is on its way, since its parts would seem old."""
    is_idle = not world.in_flight and all(actor.kind == "driver" for actor in world.actors)
    jump_s = world.rng.choice([-3600, TEN_YEARS_S])
    if is_idle or jump_s < 0:
        world.store_ahead_s += jump_s
        world.machine_ahead_s += jump_s if world.is_local else 0
        world.tell(f"the store's clock is {world.store_ahead_s:.0f} s ahead")


def vandalise(world: World) -> None:
    """Somebody deletes what is live."""
    if world.is_vandalised and world.checks.live_objects:
        name = world.rng.choice(sorted(world.checks.live_objects))
        world.tell(f"somebody deletes `{name}`")
        world.vandalised.add(name)
        world.truth.remove(name)


class Action(NamedTuple):
    """What happens in so many of a thousand steps."""

    per_mille: int
    happens: Callable[[World], None]


ACTIONS = [
    Action(10, another_apply),
    Action(1, another_driver),
    Action(35, some_time),
    Action(4, much_time),
    Action(6, kill),
    Action(1, kill_engine),
    Action(1, freeze),
    Action(1, stop),
    Action(1, jump_machine),
    Action(1, jump_store),
    Action(3, vandalise),
]
#: Many runs within the life of one attempt: what is late meets what has long been swept.
HURRIED_ACTIONS = [
    *(action for action in ACTIONS if action.happens not in (some_time, much_time, kill, freeze)),
    Action(15, a_moment),
    Action(3, kill),
    Action(6, freeze),
]


def chaos(world: World, n_steps: int, actions: list[Action] = ACTIONS) -> None:
    """So many steps, with everything that may happen between them."""
    table: list[Callable[[World], None] | None] = [None] * 1000
    rolls = [action.happens for action in actions for _ in range(action.per_mille)]
    table[: len(rolls)] = rolls
    for _ in range(n_steps):
        happens = table[int(world.rng.random() * 1000)] if world.drivers() else another_apply
        if happens:
            happens(world)
        world.step()
