"""What an attempt of a worker does in a simulation: the real commit, and a handler that writes its attempt's id.

Some attempts are left before their end, some only divide their split, as those do that outgrow their time or are
suspected. To add a kind of split, add a producer: a function from an attempt to the answer of a slot, and the test by
which its splits are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalbatch.canonical import encode
from modalbatch.errors import ModalbatchError
from modalbatch.job import Job
from modalbatch.records import Counts, Split, total
from modalbatch.runtime.carry import carry_over
from modalbatch.runtime.commit import commit_attempt, find_committed
from modalbatch.runtime.divide import cut_units
from modalbatch.sinks.objects import ObjectSink

if TYPE_CHECKING:
    from sim.actors import Actor
    from sim.world import World

Json = dict[str, Any]
#: Lines of every unit, and output records and dead letters that one may have.
N_LINES = 3
YIELDS = [(0, 0), (1, 0), (0, 1)]
#: How often an attempt is left before its end, and how often it divides its split instead of working.
LEFT_RATE, DIVIDED_RATE = 0.06, 0.02


class Spooled:
    """A finished file of a slot, without a disk."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_bytes(self) -> bytes:
        return self._data

    def unlink(self) -> None:
        pass


@dataclass(kw_only=True)
class Attempt:
    """One attempt of one split, in a container of its own."""

    world: World
    actor: Actor
    job: Job
    split: Split
    sink: ObjectSink
    id: str
    #: Files of results and of dead letters; a producer may put others in their place.
    paths: tuple[Any, Any]

    def run(self) -> Json:
        """From entry to answer, as `Worker.process`."""
        try:
            return find_committed(self.sink, self.split) or self._do()
        except ModalbatchError as error:
            return {"status": "failed", "error": type(error).__name__, "message": error.message, "hint": None}

    def _do(self) -> Json:
        roll, whole = self.world.rng.random(), self.split
        if whole.carry or roll >= self.world.division_rate * (LEFT_RATE + DIVIDED_RATE):
            return self._commit(self._produce())
        if roll < self.world.division_rate * DIVIDED_RATE:
            parts = self._cut(whole)
            self.world.tell(f"{self.actor.name}: divides its split in {len(parts)}")
            return {"status": "divided", "rest": [part.to_text() for part in parts]}
        # What is done is committed under units of its own, the rest goes back.
        self.split, *rest = self._cut(whole)
        answer = self._commit(self._produce())
        if answer["status"] == "done":
            answer["rest"] = [part.to_text() for item in rest for part in self._cut(item)]
        return answer

    def _cut(self, split: Split) -> list[Split]:
        """A split in two, somewhere; itself where it has a line only."""
        sizes = [min(unit.high, N_LINES) - unit.low for unit in split.units]
        ordinal = self.world.rng.randrange(1, max(2, sum(sizes)))
        n_done = 0
        while n_done < len(sizes) and ordinal >= sizes[n_done]:
            ordinal -= sizes[n_done]
            n_done += 1
        parts = cut_units(split.units, n_done, ordinal)
        return [replace(split, units=units) for units in parts if units]

    def _produce(self) -> Json:
        self.world.attempted(self.actor, self.split)
        return next(produce for is_its, produce in PRODUCERS if is_its(self.split))(self)

    def _commit(self, answer: Json) -> Json:
        return commit_attempt(
            self.job,
            self.sink,
            self.split,
            self.id,
            answer=answer,
            paths=self.paths,
            elapsed_s=lambda: self.world.time_s - self.actor.started_s,
        )


def work(attempt: Attempt) -> Json:
    """The handler's results: what each line of each unit gave, each with the attempt that wrote it."""
    units = attempt.split.units
    counts = []
    for unit in units:
        given = [attempt.world.rng.choice(YIELDS) for _ in range(unit.low, min(unit.high, N_LINES))]
        # Of each input something succeeds: a run in which nothing does is a failure.
        given[0] = given[0] if unit.low else (1, 0)
        out, dead = sum(n_out for n_out, _ in given), sum(n_dead for _, n_dead in given)
        counts.append(Counts(in_=len(given), out_of=out, dead=dead, filtered=len(given) - out - dead, out=out))
    files = []
    lines = [encode({"attempt": attempt.id, "unit": unit.id}) + "\n" for unit in units]
    for numbers in ([item.out for item in counts], [item.dead for item in counts]):
        files.append("".join(line * n for line, n in zip(lines, numbers, strict=True)).encode())
    attempt.paths = (Spooled(files[0]), Spooled(files[1]))
    sizes = [[len(data), hashlib.sha256(data).hexdigest()] for data in files]
    return {
        "counts": asdict(total(counts)),
        "units": [asdict(item) for item in counts],
        "part": sizes[0],
        "dead": sizes[1],
    }


def carry(attempt: Attempt) -> Json:
    """What is gone from the source is copied out of an older receipt."""
    answer = carry_over(attempt.job, attempt.sink, attempt.split, attempt.paths)
    attempt.world.carried.add(attempt.id)
    return answer


#: Which splits, and what is done with them; the first that fits.
PRODUCERS: list[tuple[Callable[[Split], bool], Callable[[Attempt], Json]]] = [
    (lambda split: bool(split.carry), carry),
    (lambda split: True, work),
]


def process(world: World, actor: Actor, job: Job, text: str) -> str:
    """The answer for the driver, as text."""
    split = Split.from_text(text)
    actor.attempt = world.mint(split)
    stem = str(world.spool_dir / actor.attempt)
    attempt = Attempt(
        world=world,
        actor=actor,
        job=job,
        split=split,
        sink=world.open_sink(actor),
        id=actor.attempt,
        paths=(Path(f"{stem}.part"), Path(f"{stem}.dead")),
    )
    answer = attempt.run()
    if answer["status"] != "done":
        answer["task"] = text
    elif split.carry:
        answer["is_carried"] = True
    actor.attempt = ""
    actor.pause()
    return encode({"split": split.id, **answer})
