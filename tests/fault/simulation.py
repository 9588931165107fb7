"""Several `apply` over one sink, interleaved at every store operation, with what must hold checked as they go.

The driver is the real `Run` with its real feed, index, publish and sweep; the worker is the real commit of an attempt.
Only the store, the clock, the event loop's idling and the handler's work are simulated. One seed, one schedule.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors import Actor, ActorLoop, ActorStore, Inline, Violation
from greenlet import getcurrent

from memory_store import Memory, MemoryStore
from modalbatch.driver.run import Run
from modalbatch.driver.runs import Request, ask_to_stop
from modalbatch.errors import ModalbatchError
from modalbatch.job import Compute, Handler, Job, OnError, Retries, Sink, Source
from modalbatch.records import (
    Counts,
    Manifest,
    Receipt,
    Split,
    Unit,
    encode,
    is_ours,
    parse_receipt_name,
    total,
)
from modalbatch.runtime.carry import carry_over
from modalbatch.runtime.commit import commit_attempt, find_committed
from modalbatch.sinks.objects import ObjectSink

TIMEOUT_S = 25
#: The platform ends an attempt before a sweep may take its parts.
PLATFORM_KILLS_S = 2 * TIMEOUT_S
FOREIGN = {"part-notes.txt": b"mine", "data.csv": b"a,b", "_modalbatch/receipts/readme.txt": b"?"}


class Inputs:
    """A source of one small unit for each input, as it was when the run began."""

    def __init__(self, versions: dict[str, int]) -> None:
        self.versions = dict(versions)

    def units(self) -> Iterator[Unit]:
        for uri, version in sorted(self.versions.items()):
            yield Unit(uri, f"{uri}{version}", "", 0, 10, False)


class World:
    """One schedule."""

    def __init__(self, seed: int, spool_dir: Path, *, is_vandalised: bool = False) -> None:
        self.rng = random.Random(seed)
        self.hub = getcurrent()
        self.memory = Memory()
        self.spool_dir = spool_dir
        self.actors: list[Actor] = []
        #: Few inputs are a split each, many go in packs.
        self.names = self.rng.choice(["abcdef", "abcdefghijklmnop"])
        self.inputs = dict.fromkeys(self.names[: len(self.names) * 2 // 3], 1)
        self.is_local = self.rng.random() < 0.4
        self.engine = "engine-0"
        self.on_removed = self.rng.choice(["keep", "drop"])
        self.n_runs = self.n_attempts = 0
        self.fault_rate = self.rng.choice([0.0, 0.0, 0.01])
        self.is_vandalised = is_vandalised
        self.violations: list[Violation] = []
        #: Attempts that copied what is gone from the source.
        self.carried: set[str] = set()
        #: Objects that somebody else deleted.
        self.vandalised: set[str] = set()
        #: Of the newest manifest: object names, unit of each input.
        self.newest = 0
        self.live: dict[str, Receipt] = {}
        self.live_objects: set[str] = set()
        #: Names that some manifest has retired.
        self.retired: set[str] = set()
        for name, data in FOREIGN.items():
            self.memory.put(name, data)

    def violation(self, message: str) -> Violation:
        """Note it: the code under test may catch what is raised here."""
        self.violations.append(Violation(message))
        return self.violations[0]

    # -- jobs

    def job(self, version: str) -> Job:
        return Job(
            name="sim",
            handler=Handler(call="handler:f", version=version),
            source=Source(uris=("data/*.jsonl",), on_removed=self.on_removed),
            sink=Sink(uri="/nowhere/"),
            compute=Compute(timeout_s=TIMEOUT_S),
            retries=Retries(max_retries=1, initial_delay_s=0.0),
            on_error=OnError(max_failed=10**6),
        )

    # -- processes

    def spawn(self, actor: Actor) -> Actor:
        self.actors.append(actor)
        return actor

    def apply(self, version: str, *, keep: bool = False, is_quiet: bool = False, again: Request | None = None) -> Actor:
        """A new driver, ready to run. `again`: of a run that has one already, as Modal starts it after a preemption."""
        self.n_runs += 1
        engine = {"kind": "local", "home": "/home", "id": self.engine} if self.is_local else {"kind": "modal"}
        request = again or Request(
            run_id=f"{self.n_runs:04d}",
            roots={},
            engine=engine,
            keep=keep,
            into_existing=True,
        )
        inputs = Inputs(self.inputs)

        def main(actor: Actor) -> None:
            loop = ActorLoop(actor)
            run = Run(
                self.job(version),
                request,
                self._map(actor, loop, self.job(version), is_quiet),
                _no_report,
                sink=ObjectSink(ActorStore(actor)),
                source=inputs,
                executor=Inline,
                now=lambda: self.memory.clock_s,
            )
            try:
                actor.outcome = loop.run_until_complete(run.conduct())
            finally:
                loop.bury()

        actor = Actor(self, "driver", main, self.engine, self.rng.choice([0.1, 1, 1, 3]))
        actor.request, actor.version = request, version
        actor.wanted = {unit.id: unit for unit in inputs.units()}
        return self.spawn(actor)

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
        actor = Actor(
            self,
            "worker",
            lambda actor: deliver(self._attempt(actor, job, text)),
            self.engine,
            self.rng.choice([0.1, 1, 1, 3]),
        )
        actor.at_end = lambda: deliver(RuntimeError("the container is gone"))
        self.spawn(actor)

    def _attempt(self, actor: Actor, job: Job, text: str) -> str:
        """As `Worker.process`, with a handler that writes its attempt's id."""
        split, sink = Split.from_text(text), ObjectSink(ActorStore(actor))
        actor.attempt = f"{self.rng.getrandbits(128):032x}"
        try:
            answer = find_committed(sink, split)
            if answer is None:
                self.n_attempts += 1
                paths = self.spool_dir / f"{actor.attempt}.part", self.spool_dir / f"{actor.attempt}.dead"
                answer = commit_attempt(
                    job,
                    sink,
                    split,
                    actor.attempt,
                    answer=self._carry(job, sink, split, actor.attempt, paths)
                    if split.carry
                    else self._work(split, actor.attempt, paths),
                    paths=paths,
                    elapsed_s=lambda: self.memory.clock_s - actor.started_s,
                )
        except ModalbatchError as error:
            answer = {"status": "failed", "error": type(error).__name__, "message": error.message, "hint": None}
        if answer["status"] != "done":
            answer["task"] = text
        actor.attempt = ""
        actor.pause()
        return encode({"split": split.id, **answer})

    def _work(self, split: Split, attempt: str, paths: tuple[Path, Path]) -> dict[str, Any]:
        given = [self.rng.choice([(0, 0), (1, 0), (2, 0), (1, 1)]) for _ in split.units]
        sizes = []
        for path, which in zip(paths, (0, 1), strict=True):
            lines = [encode({"attempt": attempt, "unit": unit.id}) + "\n" for unit in split.units]
            data = "".join(line * n[which] for line, n in zip(lines, given, strict=True)).encode()
            path.write_bytes(data)
            sizes.append([len(data), hashlib.sha256(data).hexdigest()])
        units = [Counts(in_=n_out + n_dead, out_of=n_out, dead=n_dead, out=n_out) for n_out, n_dead in given]
        counts = [asdict(item) for item in (total(units), *units)]
        return {"counts": counts[0], "units": counts[1:], "part": sizes[0], "dead": sizes[1]}

    def _carry(
        self, job: Job, sink: ObjectSink, split: Split, attempt: str, paths: tuple[Path, Path]
    ) -> dict[str, Any]:
        answer = carry_over(job, sink, split, paths)
        self.carried.add(attempt)
        return answer

    def strikes(self) -> bool:
        """Whether the network fails this operation."""
        return self.fault_rate > 0 and self.rng.random() < self.fault_rate

    # -- the schedule

    def step(self) -> bool:
        """Let one process run to its next operation; False when none can."""
        now = self.memory.clock_s
        for actor in self.actors:
            if actor.kind == "worker" and now - actor.started_s >= PLATFORM_KILLS_S:
                actor.kill()
        self.actors = [actor for actor in self.actors if not actor.is_dead]
        able = [actor for actor in self.actors if actor.idle_until_s <= now]
        if not able:
            waking = min((actor.idle_until_s for actor in self.actors), default=float("inf"))
            if waking == float("inf"):
                return False
            self.memory.clock_s = waking
            return True
        self.rng.choices(able, [actor.weight for actor in able])[0].greenlet.switch()
        return True

    def chaos(self, n_steps: int) -> None:
        """So many steps, with everything that may happen between them."""
        rng = self.rng
        for _ in range(n_steps):
            roll = rng.random()
            n_drivers = len(self.drivers())
            if n_drivers == 0 or (n_drivers < 3 and roll < 0.01):
                self._change_inputs()
                self.apply(rng.choice(["v1", "v1", "v2"]), keep=rng.random() < 0.1)
            elif roll < 0.05:
                self.memory.clock_s += rng.choice([0.1, 1, 1, 5, 30])
            elif roll < 0.054:
                self.memory.clock_s += rng.choice([60, 60, 1000])
            elif roll < 0.060 and self.actors:
                rng.choice(self.actors).kill()
            elif roll < 0.061 and self.is_local:
                self.restart_engine()
            elif roll < 0.062:
                self._stop_somebody()
            elif roll < 0.063 and self.drivers() and not self.is_local:
                first = rng.choice(self.drivers())
                self.apply(first.version, again=first.request)
            elif roll < 0.066 and self.is_vandalised and self.live_objects:
                name = rng.choice(sorted(self.live_objects))
                self.vandalised.add(name)
                self.memory.objects.pop(name, None)
            self.step()

    def _change_inputs(self) -> None:
        rng, roll = self.rng, self.rng.random()
        if roll < 0.3:
            self.inputs = self.inputs | {rng.choice(self.names): rng.randrange(2)}
        elif roll < 0.5 and len(self.inputs) > 1:
            gone = rng.choice(sorted(self.inputs))
            self.inputs = {uri: version for uri, version in self.inputs.items() if uri != gone}

    def drivers(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.kind == "driver" and not actor.is_dead]

    def restart_engine(self) -> None:
        """A local engine ends with everything in it; the next command starts another."""
        for actor in self.actors:
            actor.kill()
        self.engine = f"engine-{self.rng.getrandbits(32)}"

    def _stop_somebody(self) -> None:
        if drivers := self.drivers():
            run_id = self.rng.choice(drivers).request.run_id
            ask_to_stop(ObjectSink(MemoryStore(self.memory, self.spool_dir)), run_id, "")

    def quiet_end(self) -> None:
        """All is over or dies, much time passes, and one more `apply`, then another, with nothing in their way."""
        if self.rng.random() < 0.5:
            self.restart_engine()
        for _ in range(20_000):
            if not self.step():
                break
        for actor in self.actors:
            actor.kill()
        self.engine = "engine-last"
        self.fault_rate = 0.0
        self.memory.clock_s += 1000
        version = self.rng.choice(["v1", "v2"])
        for _ in range(2):
            before, self.actors = self.n_attempts, []
            last = self.apply(version, is_quiet=True)
            while not last.is_dead:
                if not self.step():
                    raise self.violation("I11: the last apply waits for ever")
            if last.outcome is None or last.outcome["exit_code"] != 0:
                raise self.violation(f"I11: the last apply ends with {last.outcome}")
        if self.n_attempts != before:
            raise self.violation("I11: the second of two quiet applies runs something again")
        self._check_end(last)

    # -- what must hold

    def check_delete(self, name: str, actor: Actor) -> None:
        if name in self.live_objects and name not in self.vandalised:
            raise self.violation(f"I9: {actor.kind} deletes `{name}`, which manifest {self.newest} lists")
        if name in FOREIGN:
            raise self.violation(f"I9: `{name}` is not ours")
        for other in self.actors:
            if other is not actor and not other.is_dead and other.attempt and f"-{other.attempt[:8]}." in name:
                raise self.violation(f"I9: {actor.kind} deletes `{name}` of a running attempt")

    def check_manifest(self, name: str, writer: Actor) -> None:
        objects = self.memory.objects
        manifest = Manifest.from_bytes(objects[name].data)
        if manifest.number != self.newest + 1:
            raise self.violation(f"I8: manifest {manifest.number} after {self.newest}")
        sink = ObjectSink(MemoryStore(self.memory, self.spool_dir))
        live = dict(sink.live(manifest))
        named: list[str] = []
        covered: dict[str, str] = {}
        for receipt_name, receipt in live.items():
            if receipt_name in self.retired:
                raise self.violation(f"`{receipt_name}` is live again after it was retired")
            self._check_receipt(receipt_name, receipt)
            named += [part.name for part in receipt.parts + receipt.dead]
            for unit in receipt.units:
                if unit.uri in covered:
                    raise self.violation(f"I5: manifest {manifest.number} has input `{unit.uri}` twice")
                covered[unit.uri] = unit.id
        if len(named) != len(set(named)):
            raise self.violation("I4: a part is in two receipts")
        self._check_cover(manifest, covered, writer)
        self.newest, self.live = manifest.number, live
        self.live_objects = {*live, *named}
        self.retired.update(manifest.retired)

    def _check_receipt(self, name: str, receipt: Receipt) -> None:
        stored = self.memory.objects.get(name)
        if stored is None and name in self.vandalised:
            return
        if stored is None or Receipt.from_json(json.loads(stored.data)) != receipt:
            raise self.violation(f"I2: `{name}` is live and gone or altered")
        for part in receipt.parts + receipt.dead:
            stored = self.memory.objects.get(part.name)
            if stored is None and part.name in self.vandalised:
                continue
            if stored is None or hashlib.sha256(stored.data).hexdigest() != part.sha256:
                raise self.violation(f"I2: `{part.name}` is live and gone or altered")
            lines = [json.loads(line) for line in stored.data.splitlines()]
            what = [counts.dead if part in receipt.dead else counts.out for counts in receipt.unit_counts]
            if [line["unit"] for line in lines] != [
                unit.id for unit, n in zip(receipt.units, what, strict=True) for _ in range(n)
            ]:
                raise self.violation(f"`{part.name}` is not what its receipt says of each input")
            attempts = {line["attempt"] for line in lines}
            if len(attempts) > 1 or (receipt.attempt not in self.carried and attempts - {receipt.attempt}):
                raise self.violation(f"I7: `{part.name}` is not of its receipt's attempt")

    def _check_cover(self, manifest: Manifest, covered: dict[str, str], writer: Actor) -> None:
        wanted = {unit.uri: unit.id for unit in writer.wanted.values()}
        for uri, unit_id in wanted.items():
            if covered.get(uri) != unit_id:
                raise self.violation(f"I5: manifest {manifest.number} lacks `{uri}`")
        before = {unit.uri: unit.id for receipt in self.live.values() for unit in receipt.units}
        for uri, unit_id in before.items():
            is_kept = self.on_removed == "keep" and uri not in wanted and not self.vandalised
            if is_kept and covered.get(uri) != unit_id:
                raise self.violation(f"manifest {manifest.number} gives up `{uri}`, which is gone")
        for uri, unit_id in covered.items():
            if uri in wanted:
                continue
            if self.on_removed == "drop":
                raise self.violation(f"I5: manifest {manifest.number} keeps `{uri}`, which is gone")
            if before.get(uri) != unit_id:
                raise self.violation(f"I5: manifest {manifest.number} lists `{uri}`, which is gone and was never live")

    def _check_end(self, last: Actor) -> None:
        objects = self.memory.objects
        for name in sorted(objects):
            is_object = is_ours(name) or bool(parse_receipt_name(name))
            if is_object and name not in self.live_objects:
                raise self.violation(f"`{name}` is left over after two quiet applies")
        for name in self.live_objects - self.vandalised:
            if name not in objects:
                raise self.violation(f"I2: `{name}` is gone at the end")
        if not all(objects[name].data == data for name, data in FOREIGN.items()):
            raise self.violation("I9: foreign data changed")
        success = ObjectSink(MemoryStore(self.memory, self.spool_dir)).success()
        if success is None or success["manifest"] != self.newest:
            raise self.violation(f"I14: _SUCCESS says {success}, the newest manifest is {self.newest}")


async def _no_report(progress: dict[str, Any]) -> None:
    pass


def simulate(seed: int, spool_dir: Path, *, is_vandalised: bool = False) -> World:
    """One schedule, to its quiet end."""
    world = World(seed, spool_dir, is_vandalised=is_vandalised)
    try:
        world.chaos(world.rng.randrange(80, 500))
        world.quiet_end()
    finally:
        for actor in world.actors:
            actor.kill()
    if world.violations:
        raise world.violations[0]
    return world
