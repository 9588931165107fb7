"""Several `apply` over one sink, interleaved at every operation, with what must hold checked as they go.

The driver is the real `Run` with its real feed, index, publish and sweep; the worker is the real commit of an attempt.
Only stores, clocks, chance, the event loop's idling and the handler's work are simulated. One thread; one seed, one
schedule.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from greenlet import getcurrent

from memory_store import MemoryStore, Stored
from modalbatch.driver.machine import Machine
from modalbatch.driver.run import Run
from modalbatch.driver.runs import Request
from modalbatch.driver.tables import open_database
from modalbatch.fingerprint import fingerprint, hash_code
from modalbatch.job import Compute, Handler, Job, OnError, Retries, Sink, Source
from modalbatch.names import RUNS, parse_manifest_name
from modalbatch.records import Split, Unit
from modalbatch.sinks.objects import ObjectSink
from sim import worker
from sim.actors import NEVER, Actor, ActorLoop, Inline, Violation
from sim.checks import FOREIGN, Checks
from sim.network import SimMemory, SimStore

TIMEOUT_S = 25
#: The platform ends an attempt before a sweep may take its parts, and a driver after a day.
PLATFORM_KILLS_S = {"worker": 2 * TIMEOUT_S, "driver": 86_400}
#: Steps after which an `apply` that nothing disturbs waits for ever.
MOST_STEPS = 20_000
FAULTS = ("lost", "no reply", "late", "twice")


class Database(sqlite3.Connection):
    """An index's, emptied and used again: with its tables and statements it is made in a fifth of the time."""

    _free: ClassVar[list[Database]] = []

    @classmethod
    def get(cls) -> sqlite3.Connection:
        return cls._free.pop() if cls._free else open_database(cls)

    def close(self) -> None:
        for (table,) in self.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            self.execute(f"DELETE FROM {table}")
        self._free.append(self)


# A connection does not survive a fork.
os.register_at_fork(after_in_child=Database._free.clear)


class Inputs:
    """A source of one small unit for each input, as it was when the run began."""

    def __init__(self, versions: dict[str, int]) -> None:
        self.versions = dict(versions)

    def units(self) -> Iterator[Unit]:
        for uri, version in sorted(self.versions.items()):
            yield Unit(uri, f"{uri}{version}", "", 0, 10, False)


class World:
    """One schedule on a store with conditional create."""

    delivery = "exactly_once"

    def __init__(
        self, seed: int, spool_dir: Path, *, is_vandalised: bool = False, trace: list[str] | None = None
    ) -> None:
        self.rng = random.Random(seed)
        self.is_vandalised = is_vandalised
        self.hub = getcurrent()
        self.spool_dir = spool_dir
        self.trace = trace
        self.actors: list[Actor] = []
        self._numbers = itertools.count(1)
        #: Seconds since the beginning, which nobody in the simulation can see, and what is added for those who look.
        self.time_s = 0.0
        self.store_ahead_s = self.machine_ahead_s = 1_000_000.0
        #: Requests on their way without a client: (when, number, label, effect).
        self.in_flight: list[tuple[float, int, str, Callable[[], Any]]] = []
        #: Few inputs are a split each, many go in packs.
        self.names = self.rng.choice(["abcdef", "abcdefghijklmnop"])
        self.inputs = dict.fromkeys(self.names[: len(self.names) * 2 // 3], 1)
        self.is_local = self.rng.random() < 0.4
        #: A disk answers or fails at once.
        self.is_disk = self.is_local and self.rng.random() < 0.5
        self.engine = "engine-0"
        self.on_removed = self.rng.choice(["keep", "drop"])
        self.n_runs = self.n_attempts = 0
        self.fault_rate = self.rng.choice([0.0, 0.0, 0.01, 0.03])
        self.faults = FAULTS
        self.is_verified = self.rng.random() < 1 / 8
        #: How many times as often as usual splits are divided.
        self.division_rate = 0
        self.violations: list[Violation] = []
        #: Attempts that copied what is gone from the source.
        self.carried: set[str] = set()
        #: Whether no driver was killed, and nothing failed, since the first of those that run.
        self.is_orderly = False
        #: Objects that somebody else deleted.
        self.vandalised: set[str] = set()
        self.truth = self.make_store()
        self.checks = Checks(self)
        for name, data in FOREIGN.items():
            self.truth.put(name, data)

    # -- what another kind of store does otherwise

    def make_store(self) -> SimMemory:
        return SimMemory(self)

    def open_sink(self, actor: Actor) -> ObjectSink:
        """A process's way to the sink."""
        return ObjectSink(SimStore(actor, self.truth, self.spool_dir), Inline)

    def look(self) -> ObjectSink:
        """The sink as it is, without a process that looks."""
        return ObjectSink(MemoryStore(self.truth, self.spool_dir), Inline)

    def changed(self, verb: str, name: str, data: bytes, actor: Actor) -> None:
        if verb == "create" and parse_manifest_name(name):
            self.checks.check_manifest(data, actor)

    def is_undecided(self) -> bool:
        """Whether there is a manifest that may become live without another driver."""
        return False

    # -- what processes ask of the world

    def next_number(self) -> int:
        return next(self._numbers)

    def tell(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.time_s:9.1f}  {text}")

    def violation(self, message: str) -> Violation:
        """Note it: the code under test may catch what is raised here."""
        self.tell(f"VIOLATION: {message}")
        self.violations.append(Violation(message))
        return self.violations[0]

    def store_clock_s(self) -> float:
        return self.time_s + self.store_ahead_s

    def machine_clock_s(self) -> float:
        return self.time_s + self.machine_ahead_s

    def strikes(self, actor: Actor) -> bool:
        """Whether the network fails what only reads."""
        return self.fault_rate > 0 and self.rng.random() < self.fault_rate

    def fault(self, actor: Actor) -> str:
        """What the network does to a request that changes something."""
        if not self.strikes(actor):
            return ""
        return self.rng.choice(self.faults[:1] if self.is_disk else self.faults)

    def send(self, delay_s: float, label: str, effect: Callable[[], Any]) -> None:
        """A request that takes effect later, whoever still waits for it."""
        heapq.heappush(self.in_flight, (self.time_s + delay_s, self.next_number(), label, effect))

    def check_write(self, verb: str, name: str, data: bytes, before: Stored | None) -> None:
        self.checks.check_write(verb, name, data, before)

    def check_delete(self, name: str, actor: Actor) -> None:
        self.checks.check_delete(name, actor)

    def mint(self, split: Split) -> str:
        """The id of an attempt."""
        return f"{self.rng.getrandbits(128):032x}"

    def attempted(self, actor: Actor, split: Split) -> None:
        self.n_attempts += 1
        self.tell(f"{actor.name}: works on {''.join(unit.uri for unit in split.units)} as {actor.attempt[:8]}")
        self.checks.check_attempt(split)

    # -- processes

    def spawn(self, actor: Actor) -> Actor:
        self.actors.append(actor)
        return actor

    def drivers(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.kind == "driver" and not actor.is_dead]

    def apply(self, version: str, *, keep: bool = False, is_quiet: bool = False, again: Request | None = None) -> Actor:
        """A new driver, ready to run. `again`: of a run that has one already, as Modal starts it after a preemption."""
        self.n_runs += 1
        engine = {"kind": "local", "home": "/home", "id": self.engine} if self.is_local else {"kind": "modal"}
        request = again or Request(run_id=f"{self.n_runs:04d}", roots={}, engine=engine, keep=keep, into_existing=True)
        inputs, job = Inputs(self.inputs), job_of(version, self.on_removed, self.delivery)

        def main(actor: Actor) -> None:
            loop = ActorLoop(actor)
            map_splits = self._map(actor, loop, job, is_quiet)
            sink = self.open_sink(actor)
            run = Run(job, request, map_splits, _no_report, sink=sink, source=inputs, machine=self._machine())
            try:
                outcome = actor.outcome = loop.run_until_complete(run.conduct())
            finally:
                loop.bury()
            self.tell(f"{actor.name} ends with exit code {outcome['exit_code']}: {outcome['error']}")
            self.checks.check_exit(actor)

        others = self.drivers()
        # From here on until all have ended.
        self.is_orderly = (self.is_orderly or not others) and not self.fault_rate
        for other in others:
            other.is_alone = False
        actor = Actor(self, "driver", main, self.rng.choice([0.1, 1, 1, 3]))
        actor.request, actor.version, actor.is_alone = request, version, not others
        actor.wanted = {unit.id: unit for unit in inputs.units()}
        self.tell(f"{actor.name} applies {version} to {inputs.versions} as run {request.run_id}, keep={keep}")
        return self.spawn(actor)

    def _machine(self) -> Machine:
        return Machine(
            executor=Inline,
            now=self.machine_clock_s,
            monotonic=lambda: self.time_s,
            token=lambda n_bytes: f"{self.rng.getrandbits(8 * n_bytes):0{2 * n_bytes}x}",
            database=Database.get,
        )

    def _map(self, driver: Actor, loop: ActorLoop, job: Job, is_quiet: bool) -> Callable[..., Any]:
        async def map_splits(feed: Any, *, order_outputs: bool, return_exceptions: bool) -> Any:
            answers: asyncio.Queue[Any] = asyncio.Queue()
            out, is_fed = 0, False

            def deliver(answer: Any) -> None:
                if not driver.is_dead and not loop.is_closed():
                    loop.call_soon_threadsafe(answers.put_nowait, answer)

            async def pump() -> None:
                nonlocal out, is_fed
                async for text in feed:
                    out += 1
                    self._start(job, text, deliver)
                    # Modal may run an input twice; our own engine never does while the first is alive.
                    if not is_quiet and not self.is_local and self.rng.random() < 0.05:
                        self._start(job, text, lambda answer: None)
                is_fed = True
                answers.put_nowait(None)

            pumping = asyncio.ensure_future(pump())
            while not is_fed or out:
                answer = await answers.get()
                if answer is not None:
                    out -= 1
                    yield answer
            await pumping

        return map_splits

    def _start(self, job: Job, text: str, deliver: Callable[[Any], None]) -> None:
        weight = self.rng.choice([0.1, 1, 1, 3])
        actor = Actor(self, "worker", lambda actor: deliver(worker.process(self, actor, job, text)), weight)
        actor.at_end = lambda: deliver(RuntimeError("the container is gone"))
        self.spawn(actor)

    # -- the schedule

    def step(self) -> bool:
        """Let one process run to its next operation, or time pass; False when nothing is left to happen."""
        now = self.time_s
        for actor in self.actors:
            if now - actor.started_s >= PLATFORM_KILLS_S[actor.kind]:
                actor.kill()
        self.actors = [actor for actor in self.actors if not actor.is_dead]
        if self.in_flight and self.in_flight[0][0] <= now:
            _, _, label, effect = heapq.heappop(self.in_flight)
            self.tell(f"arrives: {label}")
            effect()
            return True
        able = [actor for actor in self.actors if actor.wakes_s <= now]
        if not able:
            return self._wait()
        actor = self._choose(able)
        actor.n_steps += 1
        actor.greenlet.switch()
        return True

    def _wait(self) -> bool:
        waking = min((actor.wakes_s for actor in self.actors), default=NEVER)
        if self.in_flight:
            waking = min(waking, self.in_flight[0][0])
        if waking == NEVER:
            return False
        self.time_s = waking
        return True

    def _choose(self, able: list[Actor]) -> Actor:
        if len(able) == 1:
            return able[0]
        mark = self.rng.random() * sum(actor.weight for actor in able)
        for actor in able:
            mark -= actor.weight
            if mark < 0:
                return actor
        return able[-1]

    def restart_engine(self) -> None:
        """A local engine ends with everything in it; the next command starts another."""
        for actor in self.actors:
            actor.kill()
        self.engine = f"engine-{self.rng.getrandbits(32)}"

    def quiet_end(self, version: str = "") -> None:
        """All is over or dies, much time passes, and one more `apply`, then another, with nothing in their way."""
        if self.rng.random() < 0.5:
            self.restart_engine()
        for _ in range(MOST_STEPS):
            if not self.step():
                break
        for actor in self.actors:
            actor.kill()
        self.engine, self.fault_rate, self.division_rate = "engine-last", 0.0, 0
        self.time_s += 20_000
        self._lose_the_story()
        version = version or self.rng.choice(["v1", "v2"])
        job = job_of(version, self.on_removed, self.delivery)
        self.checks.note_done(fingerprint(job, hash_code(())), {unit.id: 1 for unit in Inputs(self.inputs).units()})
        self.tell("from here on it is quiet")
        for self.checks.is_all_done in (False, True):
            self.actors = []
            self._finish(self.apply(version, is_quiet=True))
        self.checks.check_end()

    def _lose_the_story(self) -> None:
        """Of half of the schedules: ledgers and all else under `runs/` are gone, or torn anywhere."""
        roll = self.rng.random()
        for name in [name for name in self.truth.names if name.startswith(RUNS) and roll < 0.5]:
            data = self.truth.objects[name].data
            self.truth.remove(name)
            if roll < 0.25:
                self.truth.put(name, data[: self.rng.randrange(len(data) + 1)])

    def _finish(self, last: Actor) -> None:
        while not last.is_dead:
            if not self.step():
                raise self.violation("I11: the last apply waits for ever")
        if last.outcome is None or last.outcome["exit_code"] != 0:
            raise self.violation(f"I11: the last apply ends with {last.outcome}")

    def close(self) -> None:
        """Whoever is still there ends here."""
        self.trace = None
        for actor in self.actors:
            actor.kill()


async def _no_report(progress: dict[str, Any]) -> None:
    pass


@lru_cache(64)
def job_of(version: str, on_removed: str, delivery: str) -> Job:
    return Job(
        name="sim",
        handler=Handler(call="handler:f", version=version),
        source=Source(uris=("data/*.jsonl",), on_removed=on_removed),
        sink=Sink(uri="/nowhere/"),
        compute=Compute(timeout_s=TIMEOUT_S),
        retries=Retries(max_retries=1, initial_delay_s=0.0),
        on_error=OnError(max_failed=10**6),
        delivery=delivery,
    )
