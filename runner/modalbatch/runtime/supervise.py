"""One split in one slot, until it is done or known to be impossible. Runs on: container.

Owns the search for poison: a slot that dies or hangs is replaced, the records in flight are handed over again in
halves, and the record that does it alone, twice, becomes a dead letter; the second time in a slot that has called
nothing else. ⌈log2 n⌉ + 2 extra attempts for a batch of n. And when a split is left at a checkpoint: its time is nearly
over, others wait for it, or it is suspected of ending whole containers.
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
from modalbatch.runtime.progress import CALLS, FLUSH, LOW, NONE, READING, STOP, WAITING, Checkpoint
from modalbatch.runtime.signs import ENTER_S, Signs

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
#: A slot is asked to stop when this share of the split's time is left, and ended when none is.
STOP_SHARE = 0.1
#: Why a split was left.
TIME, ASKED, SUSPECT = "time", "asked", "suspect"
#: Where the kernel counts what it kills for its memory: cgroup version 2, then 1.
_MEMORY_EVENTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The slot's answer, or the status to report without one, or where the split was left and why."""

    answer: Json | None = None
    status: str = "done"
    details: Json = field(default_factory=dict)
    #: Everything before it is in the spool files.
    left_at: Checkpoint | None = None
    why: str = ""
    #: For the next attempt at what is left.
    suspects: Json = field(default_factory=dict)


@dataclass(slots=True)
class Suspects:
    """What is known of records that were in flight when a slot died."""

    cuts: dict[tuple[int, int], int] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)
    poison: dict[int, Failure] = field(default_factory=dict)
    #: Attempts that never ended, of the split that this one is a part of (see `runtime.signs`).
    entries: int = 0
    #: Records that a slot has died in: the next one that calls them has called nobody else. Who hangs does so itself.
    alone: set[int] = field(default_factory=set)
    #: What was in flight when memory did not suffice, and how many records may be together instead.
    ooms: dict[tuple[int, int], int] = field(default_factory=dict)

    def to_json(self) -> Json:
        """For the next attempt, in whichever container."""
        data: Json = {
            "cuts": [[low, high, most] for (low, high), most in self.cuts.items()],
            "deaths": [[ordinal, n] for ordinal, n in self.deaths.items()],
            "poison": [[ordinal, list(failure)] for ordinal, failure in self.poison.items()],
            "entries": self.entries,
            "alone": sorted(self.alone),
            "ooms": [[low, high, most] for (low, high), most in self.ooms.items()],
        }
        return {name: value for name, value in data.items() if value}

    @classmethod
    def from_json(cls, data: Json) -> Suspects:
        """What an earlier attempt knew."""
        return cls(
            cuts={(low, high): most for low, high, most in data.get("cuts", ())},
            deaths=dict(data.get("deaths", ())),
            poison={ordinal: Failure(*failure) for ordinal, failure in data.get("poison", ())},
            alone=set(data.get("alone", ())),
            ooms={(low, high): most for low, high, most in data.get("ooms", ())},
            entries=data.get("entries", 0),
        )

    def moved(self, ordinal: int) -> Suspects:
        """The same, where the lines before `ordinal` are not of the split any more."""
        return Suspects(
            cuts=_moved(self.cuts, ordinal),
            deaths={at - ordinal: n for at, n in self.deaths.items() if at >= ordinal},
            poison={at - ordinal: failure for at, failure in self.poison.items() if at >= ordinal},
            alone={at - ordinal for at in self.alone if at >= ordinal},
            ooms=_moved(self.ooms, ordinal),
            entries=self.entries,
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


def _moved(ranges: dict[tuple[int, int], int], ordinal: int) -> dict[tuple[int, int], int]:
    return {(max(0, low - ordinal), high - ordinal): n for (low, high), n in ranges.items() if high > ordinal}


def supervise(
    job: Job, seat: Seat, split: Split, paths: tuple[Path, Path], timeout_s: float, *, signs: Signs | None = None
) -> Outcome:
    """Run the split in the seat's slot, in at most `timeout_s`; whoever sits there at the end is another's.

    `signs`: of a split that may be left before its end.
    """
    suspects, resume, idle_deaths = Suspects.from_json(split.suspects), Checkpoint(), 0
    limit = _Limit(time.monotonic() + timeout_s, STOP_SHARE * timeout_s)
    while True:
        child = seat.child()
        if not child.ready(min(seat.start_timeout_s, limit.left_s())):
            if not limit.left_s() and not child.is_dead():
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
        answer, cause, how = _watch(job, child, limit, signs)
        if answer is not None and answer["kind"] == "stopped":
            why = ASKED if signs and signs.was_asked else TIME
            return Outcome(left_at=child.progress.load(), why=why, suspects=suspects.to_json())
        if answer is not None and answer["kind"] == "used":  # what comes next is called by a new slot, alone
            resume = child.progress.load()
            seat.vacate()
            continue
        if answer is not None:
            return _outcome(answer)
        in_flight = child.progress.in_flight()
        resume = child.progress.load()
        seat.vacate()
        if cause == SUSPECT:
            return Outcome(left_at=resume, why=SUSPECT, suspects=suspects.to_json())
        if cause in ("deadline", "hang"):
            if cause == "hang" and in_flight:
                suspects.blame(*in_flight, "timeout", how)
            details = _failed("Timeout", how) | ({"suspects": suspects.to_json()} if cause == "hang" else {})
            return Outcome(status="failed", details=details, left_at=resume, why=TIME, suspects=suspects.to_json())
        # Who is known as poison is not called, and who is written is done: it dies of something else.
        if in_flight and in_flight[0] not in suspects.poison and in_flight[1] > resume.ordinal:
            suspects.blame(*in_flight, cause, how)
            continue
        idle_deaths += 1
        if idle_deaths >= MAX_IDLE_DEATHS:
            return Outcome(status="failed", details=_failed("SlotDied", how))


@dataclass(frozen=True, slots=True)
class _Limit:
    """The time of an attempt."""

    until: float
    stop_s: float

    def left_s(self) -> float:
        """Seconds until the slot is ended."""
        return max(0.0, self.until - time.monotonic())

    def is_near(self) -> bool:
        """Whether the slot should stop by itself."""
        return self.left_s() <= self.stop_s

    def next_s(self) -> float:
        """Seconds until one of the two is due."""
        left_s = self.left_s()
        return left_s - self.stop_s if left_s > self.stop_s else left_s


def _outcome(answer: Json) -> Outcome:
    kind = answer.pop("kind")
    if kind == "done":
        return Outcome(answer=answer)
    return Outcome(status=kind, details=answer)


def _failed(error: str, message: str) -> Json:
    return {"error": error, "message": message, "hint": None}


def _watch(job: Job, child: Child, limit: _Limit, signs: Signs | None) -> tuple[Json | None, str, str]:
    """The slot's answer, or None with the cause and the sentence of its end."""
    words = child.progress.words
    timeout_s = job.handler.timeout_s
    oom_kills = _oom_kills()
    poll_s = min(CHECKPOINT_S, timeout_s / 4) if timeout_s else CHECKPOINT_S
    seen, since = (-1, -1), time.monotonic()
    n_polls = 0
    while True:
        # The first look is soon: an attempt that may not end notes that it has begun.
        message = child.receive(min(limit.next_s(), poll_s if n_polls else min(poll_s, ENTER_S)))
        n_polls += 1
        if message is not None:
            return message, "", ""
        if child.is_dead():
            how = f"the slot ended with {child.exit_text()}"
            if _oom_kills() > oom_kills:
                return None, "oom", f"{how}: out of memory"
            return None, "killed" if child.was_killed() else "crash", how
        now = time.monotonic()
        if not limit.left_s():
            how = f"the split did not finish within its timeout of {job.compute.timeout_s} s"
            return None, "hang" if now - since >= HANG_SHARE * job.compute.timeout_s else "deadline", how
        if signs:
            signs.look()
            if signs.is_suspect:
                return None, SUSPECT, "its containers ended again and again"
            if signs.was_asked or limit.is_near():
                words[STOP] = 1
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
