"""One split in one slot, until it is done or known to be impossible. Runs on: container.

Owns the search for poison: a slot that dies or hangs is replaced, the records in flight are handed over again in
halves, and the record that does it alone, twice, becomes a dead letter; the second time in a slot that has called
nothing else. ⌈log2 n⌉ + 2 extra attempts for a batch of n.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modalbatch.job import Job
from modalbatch.records import Split
from modalbatch.runtime.child import Child, Seat
from modalbatch.runtime.handler import Failure
from modalbatch.runtime.progress import CALLS, FLUSH, LOW, NONE, READING, WAITING, Checkpoint

Json = dict[str, Any]

#: Seconds between checkpoints of a slow handler; a fast one makes its own, by size.
CHECKPOINT_S = 1.0
#: Deaths of one record, alone, that make it poison: one may be an accident.
DEATHS = 2
#: The same where the slot was killed from outside, not for its memory: a `kill -9` is hardly the record's fault.
KILLS = 4
#: Deaths of a slot with nothing of the split to blame.
MAX_IDLE_DEATHS = 3
#: What is in flight since this share of the split's time, at its end, hangs; less is a split that is too large.
HANG_SHARE = 0.5
#: Where the kernel counts what it kills for its memory: cgroup version 2, then 1.
_MEMORY_EVENTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The slot's answer, or the status to report without one."""

    answer: Json | None = None
    status: str = "done"
    details: Json = field(default_factory=dict)


@dataclass(slots=True)
class Suspects:
    """What is known of records that were in flight when a slot died."""

    cuts: dict[tuple[int, int], int] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)
    poison: dict[int, Failure] = field(default_factory=dict)
    #: Records that a slot has died in: the next one that calls them has called nobody else. Who hangs does so itself.
    alone: set[int] = field(default_factory=set)
    #: What was in flight when memory did not suffice, and how many records may be together instead.
    ooms: dict[tuple[int, int], int] = field(default_factory=dict)

    def to_json(self) -> Json:
        """For the next attempt, in whichever container."""
        return {
            "cuts": [[low, high, most] for (low, high), most in self.cuts.items()],
            "deaths": [[ordinal, n] for ordinal, n in self.deaths.items()],
            "poison": [[ordinal, list(failure)] for ordinal, failure in self.poison.items()],
            "alone": sorted(self.alone),
            "ooms": [[low, high, most] for (low, high), most in self.ooms.items()],
        }

    @classmethod
    def from_json(cls, data: Json) -> Suspects:
        """What an earlier attempt knew."""
        return cls(
            cuts={(low, high): most for low, high, most in data.get("cuts", ())},
            deaths=dict(data.get("deaths", ())),
            poison={ordinal: Failure(*failure) for ordinal, failure in data.get("poison", ())},
            alone=set(data.get("alone", ())),
            ooms={(low, high): most for low, high, most in data.get("ooms", ())},
        )

    def blame(self, low: int, high: int, cause: str, how: str) -> None:
        """Narrow down: fewer records at a time, then one alone, then poison."""
        if high - low > 1:
            self.cuts = {(a, b): n for (a, b), n in self.cuts.items() if b <= low or a >= high}
            self.cuts[low, high] = half = (high - low + 1) // 2
            if cause == "oom":
                self.ooms[low, high] = half
            return
        self.deaths[low] = self.deaths.get(low, 0) + 1
        if cause != "timeout":
            self.alone.add(low)
        self.cuts[low, high] = 1
        if self.deaths[low] >= (KILLS if cause == "killed" else DEATHS):
            cause = "crash" if cause == "killed" else cause
            error = {"type": cause, "message": how, "traceback": ""}
            self.poison[low] = Failure(cause, error, self.deaths[low])

    def most(self, known: int) -> int:
        """Records that memory allows together; 0: not known. `known`: what others have found out.

        Where one record is too large by itself, the number of those beside it was not the reason.
        """
        large = [ordinal for ordinal, failure in self.poison.items() if failure.cause == "oom"]
        sizes = [n for (low, high), n in self.ooms.items() if not any(low <= ordinal < high for ordinal in large)]
        return min([*sizes, known] if known else sizes, default=0)


def supervise(job: Job, seat: Seat, split: Split, paths: tuple[Path, Path], timeout_s: float) -> Outcome:
    """Run the split in the seat's slot, in at most `timeout_s`; whoever sits there at the end is another's."""
    suspects, resume, idle_deaths = Suspects.from_json(split.suspects), Checkpoint(), 0
    until = time.monotonic() + timeout_s
    while True:
        child = seat.child()
        if not child.ready(min(seat.start_timeout_s, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until and not child.is_dead():
                return Outcome(
                    status="failed", details=_failed("Timeout", "its time was over before the slot was ready")
                )
            return Outcome(status="start_failed", details={"error": child.start_error})
        child.progress.reset(resume)
        child.send(
            {
                "kind": "task",
                "split": split.to_text(),
                "part_path": str(paths[0]),
                "dead_path": str(paths[1]),
                "resume": resume,
                "cuts": [[low, high, most] for (low, high), most in suspects.cuts.items()],
                "poison": suspects.poison,
                "suspects": sorted(suspects.alone - suspects.poison.keys()),
                "most": suspects.most(split.most),
            }
        )
        answer, cause, how = _watch(job, child, until)
        if answer is not None and answer["kind"] == "used":  # what comes next is called by a new slot, alone
            resume = child.progress.load()
            seat.vacate()
            continue
        if answer is not None:
            return _outcome(answer)
        in_flight = child.progress.in_flight()
        resume = child.progress.load()
        seat.vacate()
        if cause == "deadline":
            return Outcome(status="failed", details=_failed("Timeout", how))
        if cause == "hang" and in_flight:
            suspects.blame(*in_flight, "timeout", how)
            return Outcome(status="failed", details=_failed("Timeout", how) | {"suspects": suspects.to_json()})
        # Who is known as poison is not called, and who is written is done: it dies of something else.
        if in_flight and in_flight[0] not in suspects.poison and in_flight[1] > resume.ordinal:
            suspects.blame(*in_flight, cause, how)
            continue
        idle_deaths += 1
        if idle_deaths >= MAX_IDLE_DEATHS:
            return Outcome(status="failed", details=_failed("SlotDied", how))


def _outcome(answer: Json) -> Outcome:
    kind = answer.pop("kind")
    if kind == "done":
        return Outcome(answer=answer)
    return Outcome(status=kind, details=answer)


def _failed(error: str, message: str) -> Json:
    return {"error": error, "message": message, "hint": None}


def _watch(job: Job, child: Child, until: float) -> tuple[Json | None, str, str]:
    """The slot's answer, or None with the cause and the sentence of its end."""
    words = child.progress.words
    timeout_s = job.handler.timeout_s
    oom_kills = _oom_kills()
    poll_s = min(CHECKPOINT_S, timeout_s / 4) if timeout_s else CHECKPOINT_S
    seen, since = (-1, -1), time.monotonic()
    while True:
        message = child.receive(poll_s)
        if message is not None:
            return message, "", ""
        if child.is_dead():
            how = f"the slot ended with {child.exit_text()}"
            if _oom_kills() > oom_kills:
                return None, "oom", f"{how}: out of memory"
            return None, "killed" if child.was_killed() else "crash", how
        now = time.monotonic()
        if now > until:
            how = f"the split did not finish within its timeout of {job.compute.timeout_s} s"
            return None, "hang" if now - since >= HANG_SHARE * job.compute.timeout_s else "deadline", how
        words[FLUSH] = 1
        at = (words[LOW], words[CALLS])
        if at != seen or at[0] == NONE or words[WAITING] or words[READING]:
            seen, since = at, now
        elif timeout_s and now - since >= timeout_s:
            return None, "timeout", f"the call did not return within {timeout_s:g} s"


def _oom_kills() -> int:
    """How many processes of this container the kernel has killed for their memory; 0 where it does not say."""
    for path in _MEMORY_EVENTS:
        with contextlib.suppress(OSError):
            return int(dict(line.split() for line in path.read_text().splitlines()).get("oom_kill", 0))
    return 0
