"""The same on a Modal Volume: the last writer wins, and nobody sees others' files before a reload.

The unit of commit is the run. What makes a manifest live is the first word of the arbiter on its number, a `modal.Dict`
whose entries expire after a week.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from memory_store import MemoryStore, Stored
from modalbatch.names import RECEIPTS, SUCCESS, decision_name, manifest_name, parse_manifest_name
from modalbatch.sinks.attempts import AttemptSink
from modalbatch.sinks.objects import ObjectSink
from sim.actors import Actor, Inline
from sim.chaos import ACTIONS, Action
from sim.network import SimMemory, Volume, VolumeStore
from sim.world import World

EXPIRES_S = 8 * 86_400


class WatchedSink(AttemptSink):
    """A process's sink on a Volume; the world hears what it believes to be published."""

    actor: Actor

    def publish(self, manifest: Any) -> bool:
        done = super().publish(manifest)
        if done:
            self.actor.world.decided(manifest.number, hashlib.sha256(manifest.to_bytes()).hexdigest()[:16])
        return done


class VolumeWorld(World):
    """One schedule on a Volume."""

    delivery = "at_least_once"

    def make_store(self) -> SimMemory:
        self.is_local = self.is_disk = False
        self.volume = Volume(self)
        self.stores: dict[Actor, VolumeStore] = {}
        #: Content and writer of each manifest, by hash; hash of the one that is live, by number.
        self.written: dict[str, tuple[bytes, Actor]] = {}
        self.deciding: dict[int, str] = {}
        #: Numbers of manifests because of which something was deleted or called a success.
        self.relied_on: set[int] = set()
        return self.volume.committed

    def open_sink(self, actor: Actor) -> ObjectSink:
        store = self.stores[actor] = VolumeStore(actor, self.volume, self.spool_dir)
        sink = WatchedSink(store, self.volume.arbiter(actor))
        sink.executor, sink.actor = Inline, actor
        return sink

    def look(self) -> ObjectSink:
        sink = AttemptSink(MemoryStore(self.truth, self.spool_dir), self.volume.entries.get)
        sink.executor = Inline
        return sink

    def changed(self, verb: str, name: str, data: bytes, actor: Actor) -> None:
        found = parse_manifest_name(name)
        if found:
            self.written[found[1]] = data, actor

    def check_delete(self, name: str, actor: Actor) -> None:
        super().check_delete(name, actor)
        if name in self.checks.retired:
            self.relied_on.add(self.checks.newest)

    def check_write(self, verb: str, name: str, data: bytes, before: Stored | None) -> None:
        super().check_write(verb, name, data, before)
        if name == SUCCESS:
            self.relied_on.add(json.loads(data)["manifest"])

    def check_commit(self, name: str, stored: Stored | None, before: Stored | None) -> None:
        self.checks.check_commit(name, stored, before)

    def decided(self, number: int, sha: str) -> None:
        """Somebody may rely on this manifest from here on."""
        before = self.deciding.setdefault(number, sha)
        if before != sha:
            raise self.violation(f"I8: manifest {number} was {before} and is {sha}")
        if number == self.checks.newest + 1:
            if manifest_name(number, sha) not in self.truth.objects:
                raise self.violation(f"I2: manifest {number} is decided before it is committed")
            self.checks.check_manifest(*self.written[sha])

    def is_undecided(self) -> bool:
        numbers = [found[0] for name in self.truth.names if (found := parse_manifest_name(name))]
        return max(numbers, default=0) > self.checks.newest

    def forget(self) -> None:
        """The arbiter forgets everything; nobody who has relied on it without leaving a note is alive."""
        self.volume.entries.clear()
        newest = self.checks.newest
        is_noted = newest and decision_name(newest, self.deciding.get(newest, "")) in self.truth.objects
        if newest and not is_noted and newest not in self.relied_on:
            del self.deciding[newest]
            self.checks.forget_newest()


def commit_in_background(world: VolumeWorld) -> None:
    """Of some container, what happens to be there."""
    if stores := [store for actor in world.actors if (store := world.stores.get(actor)) and store.changes]:
        with_receipt = [store for store in stores if any(name.startswith(RECEIPTS) for name in store.changes)]
        store = world.rng.choice(with_receipt or stores)
        store.commit_some()
        if world.rng.random() < 0.3:
            store.actor.kill()


def a_week_passes_after_a_race(world: VolumeWorld) -> None:
    """Two manifests of one number are there when the arbiter forgets."""
    numbers = [found[0] for name in world.truth.names if (found := parse_manifest_name(name))]
    if numbers.count(max(numbers, default=0)) > 1:
        a_week_passes(world)


def a_week_passes(world: VolumeWorld) -> None:
    """Nothing lives so long, not even the arbiter's memory."""
    world.tell("a week passes")
    for actor in world.actors:
        actor.kill()
    world.time_s += EXPIRES_S
    world.forget()


VOLUME_ACTIONS = [
    *ACTIONS,
    Action(50, commit_in_background),
    Action(1, a_week_passes),
    Action(50, a_week_passes_after_a_race),
]
