"""The four sequences that made sinks unusable when a sweep went by age (`guarantees.md` section 3), on disk."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import Pool, module_path, no_report, run_job
from modalbatch.driver.drive import drive
from modalbatch.driver.runs import Request, ask_to_stop
from modalbatch.job import Handler, Job, Sink, Source
from modalbatch.names import is_ours, parse_receipt_name
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores.local import LocalStore

HANDLER = """
import pathlib, time

def work(record, tag):
    folder = pathlib.Path(__file__).parent
    while record.get("waits") and not (folder / "gate").exists():
        (folder / "reached").touch()
        time.sleep(0.01)
    return {"key": record["key"], "tag": tag}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "sequence_handler.py").write_text(HANDLER)
    for key in "abc":
        write(tmp_path, key)
    return tmp_path


def write(folder: Path, key: str, **fields: Any) -> None:
    (folder / f"data/{key}.jsonl").write_text(json.dumps({"key": key, **fields}) + "\n")


def job_of(tag: str, on_removed: str = "drop") -> Job:
    return Job(
        name="sequence",
        handler=Handler(call="sequence_handler:work", args={"tag": tag}),
        source=Source(uris=("data/*.jsonl",), on_removed=on_removed),
        sink=Sink(uri="out/"),
    )


def apply(folder: Path, job: Job, run_id: str, engine: str = "", n_workers: int = 1) -> dict[str, Any]:
    """One run under an engine that nothing else runs under, so that its sweep goes by nothing but receipts."""
    where = {"kind": "local", "home": "here", "id": engine or run_id}
    outcome = run_job(job, folder, run_id=run_id, n_workers=n_workers, engine=where)
    assert outcome["exit_code"] == 0, outcome
    return outcome


def check(folder: Path, tag: str, keys: str) -> None:
    """What is live is the whole result, and nothing else of ours is there."""
    sink = ObjectSink(LocalStore(str(folder / "out")))
    manifest = sink.newest()
    live = dict(sink.live(manifest))
    parts = {part.name for receipt in live.values() for part in receipt.parts}
    names = {entry.name for entry in sink.store.list()}
    assert {name for name in names if is_ours(name)} == parts
    assert {name for name in names if parse_receipt_name(name)} == set(live)
    records = [json.loads(line) for name in parts for line in sink.store.read(name).splitlines()]
    assert sorted((record["key"], record["tag"]) for record in records) == [(key, tag) for key in keys]
    assert sink.success()["manifest"] == manifest.number


def test_change_and_revert_of_the_handler(folder: Path) -> None:
    assert apply(folder, job_of("v1"), "r1")["splits"]["done"] == 3
    assert apply(folder, job_of("v2"), "r2")["splits"]["done"] == 3
    check(folder, "v2", "abc")
    assert apply(folder, job_of("v1"), "r3")["splits"]["done"] == 3
    check(folder, "v1", "abc")
    assert apply(folder, job_of("v1"), "r4")["splits"] == {"done": 0, "failed": 0, "kept": 3}
    check(folder, "v1", "abc")


@pytest.mark.parametrize("on_removed", ["drop", "keep"])
def test_an_input_removed_and_restored(folder: Path, on_removed: str) -> None:
    job = job_of("v1", on_removed)
    apply(folder, job, "r1")
    (folder / "data/b.jsonl").unlink()
    apply(folder, job, "r2")
    check(folder, "v1", "abc" if on_removed == "keep" else "ac")
    write(folder, "b")
    assert apply(folder, job, "r3")["splits"]["done"] == (0 if on_removed == "keep" else 1)
    check(folder, "v1", "abc")


def test_a_long_run_beside_a_short_one(folder: Path) -> None:
    """F15 L, F18 L"""
    write(folder, "c", waits=True)
    job, outcomes = job_of("v1"), []
    # Two workers: with one, the split that hangs may come before one that does not.
    long = threading.Thread(target=lambda: outcomes.append(apply(folder, job, "long", "shared", n_workers=2)))
    long.start()
    sink = ObjectSink(LocalStore(str(folder / "out")))
    while (
        not (folder / "reached").exists() or sum(parse_receipt_name(e.name) is not None for e in sink.store.list()) < 2
    ):
        time.sleep(0.01)  # until the long run has finished two of three, and hangs on the last, which it has read
    write(folder, "c")
    apply(folder, job, "short", engine="shared")
    (folder / "gate").touch()
    long.join()
    assert outcomes[0]["exit_code"] == 0
    apply(folder, job, "last")
    check(folder, "v1", "abc")


def test_a_run_stopped_early_after_a_full_one(folder: Path) -> None:
    apply(folder, job_of("v1"), "full")
    sink = ObjectSink(LocalStore(str(folder / "out")))

    class Stopping(Pool):
        """Asks the run to stop once its first split is done."""

        async def map(self, feed: Any, **options: Any) -> Any:
            async for answer in super().map(feed, **options):
                yield answer
                ask_to_stop(sink, "limited", "a limit")
                for _ in range(300):
                    await asyncio.sleep(0.01)
                    if is_closed(feed):
                        break

    def is_closed(feed: Any) -> bool:
        return feed.ag_frame is None

    write(folder, "a", waits=True)
    write(folder, "b", waits=True)
    changed = job_of("v2")
    write(folder, "0")
    with module_path(folder):
        pool = Stopping(changed)
        request = Request(run_id="limited", roots={"": f"{folder}/"})
        (folder / "gate").touch()
        outcome = json.loads(asyncio.run(drive(changed.to_json(), request.to_text(), pool.map, no_report)))
        pool.close()
    assert (outcome["status"], outcome["exit_code"]) == ("stopped", 130)
    # What was live stays what readers of the manifest see, and is all there.
    assert sink.newest().number == 1
    for _, receipt in sink.live(sink.newest()):
        assert all(sink.store.stat(part.name) for part in receipt.parts)
    assert sink.success() is None
    n_left = apply(folder, replace(changed), "rest")["splits"]["done"]
    assert n_left + outcome["splits"]["done"] == 4
    check(folder, "v2", "0abc")
