"""What an attempt of a worker does in a simulation: the real commit, and a handler that writes its attempt's id.

To add a kind of split (one that is handed back in part, one that replaces others), add a producer: a function from an
attempt to the answer of a slot, and the test by which its splits are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalbatch.errors import ModalbatchError
from modalbatch.job import Job
from modalbatch.records import Counts, Split, encode, total
from modalbatch.runtime.carry import carry_over
from modalbatch.runtime.commit import commit_attempt, find_committed
from modalbatch.sinks.objects import ObjectSink

if TYPE_CHECKING:
    from sim.actors import Actor
    from sim.world import World

Json = dict[str, Any]
#: Output records and dead letters that a unit may have.
YIELDS = [(0, 0), (1, 0), (2, 0), (1, 1)]


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
            committed = find_committed(self.sink, self.split)
            return committed or self._commit(self._produce())
        except ModalbatchError as error:
            return {"status": "failed", "error": type(error).__name__, "message": error.message, "hint": None}

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
    """The handler's results: a few lines of each unit, each with the attempt that wrote it."""
    units = attempt.split.units
    given = [attempt.world.rng.choice(YIELDS) for _ in units]
    files = []
    for which in (0, 1):
        lines = [encode({"attempt": attempt.id, "unit": unit.id}) + "\n" for unit in units]
        files.append("".join(line * n[which] for line, n in zip(lines, given, strict=True)).encode())
    attempt.paths = (Spooled(files[0]), Spooled(files[1]))
    counts = [Counts(in_=n_out + n_dead, out_of=n_out, dead=n_dead, out=n_out) for n_out, n_dead in given]
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
