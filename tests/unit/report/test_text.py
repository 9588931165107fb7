"""Numbers and sentences of the console, by exact string."""

from __future__ import annotations

import io
import json

import pytest

from modalbatch.records import Counts, Manifest
from modalbatch.report import text
from modalbatch.report.console import Console
from modalbatch.report.meter import Meter


def progress(at: float, n_records: int, done: int, *, is_total: bool = True, dead: int = 0, failed: int = 0) -> dict:
    """As a driver tells it."""
    splits = {"done": done, "kept": 0, "failed": failed, "todo": 10, "is_total": is_total}
    counts = Counts(in_=n_records, dead=dead, out=n_records - dead).to_json()
    return {"event": "progress", "phase": "running", "counts": counts, "splits": splits, "at": at}


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (546_816, "534 KiB"), (5 << 40, "5.0 TiB")],
)
def test_quantity(n_bytes, said):
    assert text.quantity(n_bytes) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.84, "0.8 s"), (75, "75 s"), (720, "12 min"), (11_520, "3.2 h")])
def test_duration(seconds, said):
    assert text.duration(seconds) == said


def test_progress_line():
    told = progress(0, 4096, 3, dead=2, failed=1)
    assert text.progress_line(told, 1365.2, 4.0) == (
        "running: 3 of 10 splits, 4,096 records, 1,365 records/s, 2 dead, 1 failed splits, about 4.0 s left"
    )
    assert text.progress_line(progress(0, 1, 0, is_total=False), None, None) == "running: 0 splits, 1 record"


def test_outcome():
    outcome = {
        "status": "done",
        "counts": Counts(in_=10, out_of=8, out=9, dead=1, filtered=1).to_json(),
        "splits": {"done": 2, "kept": 3, "failed": 0},
        "seconds": 2.5,
    }
    manifest = Manifest(number=4, run_id="r", accepted=(), counts=Counts(out=20), part_bytes=2048)
    assert text.outcome_lines(outcome, manifest, "out/") == [
        "done in 2.5 s: 10 records in: 9 out, 1 dead, 1 filtered, 0 dropped · 4 records/s",
        "splits: 2 done, 3 kept, 0 failed",
        "out/: 20 records live, 2.0 KiB, manifest 4",
    ]


def test_speed_and_time_left():
    meter = Meter()
    meter.add(progress(100, 0, 0))
    assert (meter.rate(), meter.left_s(progress(100, 0, 0))) == (None, None)
    meter.add(progress(102, 50, 4))
    assert (meter.rate(), meter.left_s(progress(102, 50, 4))) == (25.0, 3.0)
    assert meter.left_s(progress(102, 50, 4, is_total=False)) is None
    for at in range(103, 200):
        meter.add(progress(at, 50, 4))
    assert (meter.rate(), meter.left_s(progress(199, 50, 4))) == (0.0, None)


def test_without_a_terminal_a_line_now_and_then():
    clock = iter([0, 1, 5, 5, 6, 11, 11])
    stream = io.StringIO()
    with Console(stream=stream, now=lambda: next(clock)) as console:
        for at, n_records in [(1, 0), (5, 40), (6, 50), (11, 100)]:
            console.progress(progress(at, n_records, n_records // 10))
    assert stream.getvalue().splitlines() == [
        "running: 4 of 10 splits, 40 records, 10 records/s, about 6.0 s left",
        "running: 10 of 10 splits, 100 records, 10 records/s, about 0.0 s left",
    ]


def test_json_lines_are_events():
    stream = io.StringIO()
    with Console(as_json=True, stream=stream) as console:
        console.say("local")
        console.event({"event": "plan"}, ["never said"])
        console.log({"event": "log", "text": "hello"})
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "note", "text": "local"},
        {"event": "plan"},
        {"event": "log", "text": "hello"},
    ]
