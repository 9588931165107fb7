"""Control objects of runs in a sink: request, epochs, stop, end. Runs on: both. Control and story, never the truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modalbatch.canonical import SINK_FORMAT, Json, encode
from modalbatch.errors import NotFoundError
from modalbatch.names import RUNS
from modalbatch.sinks.objects import ObjectSink

_EPOCH = re.compile(re.escape(RUNS) + r"[^/]+/epoch-([0-9]+)")
#: Objects of a run that are written once each.
REQUEST, STOP, END = "plan.json", "stop", "end.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command asks of `drive`: JSON on the wire, no data."""

    run_id: str
    #: Logical prefix → actual prefix.
    roots: dict[str, str] = field(default_factory=dict)
    #: {"kind": "local" | "modal", "id": of the engine's process, "home": of its state}.
    engine: dict[str, str] = field(default_factory=dict)
    #: How many containers there can be.
    containers: int = 1
    #: Count results under earlier accepted fingerprints as done.
    keep: bool = False
    #: {"error": signature or None}: no input is processed, but the live dead letters (of that kind) are, once more.
    retry: Json | None = None
    into_existing: bool = False
    adopt: bool = False
    #: Who started it, for people.
    user: str = ""
    #: Fingerprint that the command saw; a driver that sees other files stops. Empty: no check.
    fingerprint: str = ""
    #: Seconds after which a driver hands over to the next one: a platform ends functions after a day. 0: never.
    driver_life_s: float = 0.0
    #: What earlier drivers of the run, which handed over, have counted.
    before: Json = field(default_factory=dict)
    #: Local file of known content hashes, where driver and command share a machine.
    identity_cache: str | None = None

    def to_text(self) -> str:
        """JSON for the wire."""
        return encode({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_text(cls, text: str) -> Request:
        """What `to_text` wrote."""
        return cls(**json.loads(text))


def run_object(run_id: str, name: str) -> str:
    """The name of a run's object in the sink."""
    return f"{RUNS}{run_id}/{name}"


def begin(
    sink: ObjectSink,
    request: Request,
    job_name: str,
    fingerprint: str,
    started_s: float,
    *,
    decides: Mapping[str, str] | None = None,
    timeout_s: float = 0.0,
) -> None:
    """Note that the run exists. Order: before its first part, so that a sweep elsewhere sees it.

    `timeout_s`: of an attempt, for sweeps of other runs. `decides`: what the fingerprint is made of (`driver.reason`),
    so that a later plan can say what changed.
    """
    data = {
        "format": SINK_FORMAT,
        "run_id": request.run_id,
        "name": job_name,
        "fingerprint": fingerprint,
        "decides": dict(decides or {}),
        "engine": request.engine,
        "user": request.user,
        "timeout_s": timeout_s,
        "started": round(started_s, 3),
    }
    if request.retry:
        data["retry"] = request.retry
    sink.store.create(run_object(request.run_id, REQUEST), encode(data).encode())
    sink.store.commit()


def take_epoch(sink: ObjectSink, run_id: str, driver_id: str) -> int:
    """The next free epoch of the run, now ours. Retry-safe: a lost reply only costs a number."""
    epoch = newest_epoch(sink, run_id) + 1
    while not sink.store.create(run_object(run_id, f"epoch-{epoch}"), driver_id.encode()):
        epoch += 1
    sink.store.commit()
    return epoch


def newest_epoch(sink: ObjectSink, run_id: str) -> int:
    """The highest epoch that any driver of the run has taken; 0 before the first."""
    found = (_EPOCH.fullmatch(entry.name) for entry in sink.store.list(run_object(run_id, "epoch-")))
    return max((int(match[1]) for match in found if match), default=0)


def ask_to_stop(sink: ObjectSink, run_id: str, why: str) -> None:
    """Ask the run's driver, wherever it is, to feed nothing more; it looks every second."""
    sink.store.create(run_object(run_id, STOP), encode({"format": SINK_FORMAT, "why": why}).encode())
    sink.store.commit()


def is_stopping(sink: ObjectSink, run_id: str) -> bool:
    """Whether somebody asked."""
    return sink.store.stat(run_object(run_id, STOP)) is not None


def end(sink: ObjectSink, run_id: str, epoch: int, outcome: Mapping[str, Any]) -> None:
    """Note how the run ended for the driver of this epoch; only that of the newest one says how the run did."""
    if newest_epoch(sink, run_id) > epoch:
        return
    data = {"format": SINK_FORMAT, "epoch": epoch, **outcome}
    sink.store.replace(run_object(run_id, END), encode(data).encode())
    sink.store.commit()


def note_state(sink: ObjectSink, exit_code: int) -> None:
    """Note what an `apply` that found nothing to do says of the newest run's state: limits of a spec may change."""
    ended = [run for run in list_runs(sink) if run["end"]]
    if not ended:
        return
    run = max(ended, key=lambda run: float(run.get("started", 0)))
    if state_code(run["end"]) != exit_code:
        data = encode({**run["end"], "state_code": exit_code}).encode()
        sink.store.replace(run_object(run["run_id"], END), data)
        sink.store.commit()


def state_code(end: Mapping[str, Any]) -> int | None:
    """The exit code of a run that has ended, by the limits that were in force last."""
    code = end.get("state_code", end.get("exit_code"))
    return None if code is None else int(code)


def list_runs(sink: ObjectSink) -> Iterator[Json]:
    """Every run of the sink, oldest first: its request with `end`, how it ended, or None while it runs or died."""
    run_ids = {entry.name[len(RUNS) :].partition("/")[0] for entry in sink.store.list(RUNS)}
    for run_id in sorted(run_ids):
        run = read_run(sink, run_id)
        if run is not None:
            yield run


def read_run(sink: ObjectSink, run_id: str) -> Json | None:
    """One run, as `list_runs` gives it; None when the sink does not know it."""
    begun = _read(sink, run_object(run_id, REQUEST), run_id=str, engine=dict, timeout_s=(int, float))
    if begun is None:
        return None
    ended = _read(sink, run_object(run_id, END), epoch=int)
    if ended and newest_epoch(sink, run_id) > ended["epoch"]:
        ended = None  # another driver goes on, or died
    return {**begun, "end": ended}


def none_is_running(sink: ObjectSink, home: str, engine_id: str | None, *, run_id: str = "", epoch: int = 1) -> bool:
    """Whether no attempt of any run can still be on its way.

    Known only for runs under local engines of the home `home`: attempts end with their engine, and a home has one
    engine at a time, now `engine_id` (None: none). `run_id`, `epoch`: the caller's own run, whose attempts are settled
    unless an earlier driver started some.
    """
    for run in list_runs(sink):
        engine = run["engine"]
        has_ended = run["end"] is not None and not run["end"].get("out")
        if run["run_id"] == run_id:
            if epoch > 1:
                return False
        elif engine.get("kind") != "local" or engine.get("home") != home:
            if not has_ended:
                return False
        elif engine.get("id") == engine_id and not has_ended:
            return False
    return True


def longest_timeout_s(sink: ObjectSink, at_least_s: float) -> float:
    """The longest timeout of runs whose attempts may still be on their way."""
    begun = (run for run in list_runs(sink) if run["end"] is None or run["end"].get("out"))
    return max([at_least_s, *(float(run.get("timeout_s", 0.0)) for run in begun)])


def _read(sink: ObjectSink, name: str, **needed: Any) -> Json | None:
    """A JSON object with these keys, of these types; None where there is none, or a damaged one."""
    try:
        data = json.loads(sink.store.read(name))
    except (NotFoundError, ValueError):
        return None
    is_whole = isinstance(data, dict) and all(isinstance(data.get(key), kind) for key, kind in needed.items())
    return data if is_whole else None
