"""What is gone from the source keeps its output, whatever becomes of the inputs that shared a split with it."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness import Pool, module_path, run_job
from modalbatch.driver.plan import plan
from modalbatch.driver.verify import verify
from modalbatch.fingerprint import fingerprint, hash_code
from modalbatch.job import Handler, Job, OnError, Retries, Sink, Source, Split
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import open_source
from modalbatch.stores.local import LocalStore

CODE = """
import os, pathlib

def work(record, tag):
    if record.get("bad"):
        raise ValueError("bad")
    if record.get("none"):
        return None
    marker = pathlib.Path(__file__).parent / "killed"
    if record.get("kills") and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), 9)
    result = {"key": record["key"], "n": record["n"], "tag": tag}
    return [result, result] if record.get("twice") else result
"""
KEYS = "abcd"
#: Of each input.
RECORDS: list[dict[str, Any]] = [{"n": 0}, {"n": 1, "bad": True}, {"n": 2, "none": True}, {"n": 3, "twice": True}]
GIVEN = [0, 3, 3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "carry_handler.py").write_text(CODE)
    for key in KEYS:
        write(tmp_path, key)
    return tmp_path


def write(folder: Path, key: str, records: list[dict[str, Any]] = RECORDS) -> None:
    lines = (json.dumps({"key": key, **record}) + "\n" for record in records)
    (folder / f"data/{key}.jsonl").write_text("".join(lines))


def job_of(tag: str = "v1", *, compression: str = "none", **handler: Any) -> Job:
    return Job(
        name="carry",
        handler=Handler(call="carry_handler:work", args={"tag": tag}, **handler),
        source=Source(uris=("data/*.jsonl",), split=Split(files=4), on_removed="keep"),
        sink=Sink(uri="out/", compression=compression),
        retries=Retries(initial_delay_s=0.0),
        on_error=OnError(max_failed=100),
    )


def apply(folder: Path, job: Job, run_id: str) -> dict[str, Any]:
    outcome = run_job(job, folder, run_id=run_id)
    assert outcome["exit_code"] == 0, outcome
    sink = sink_of(folder)
    proof = verify(sink)
    assert proof.is_whole, proof.problems
    for _, receipt in sink.live(sink.newest()):
        assert len(receipt.unit_counts) == len(receipt.units)
    return outcome


def sink_of(folder: Path) -> ObjectSink:
    return ObjectSink(LocalStore(str(folder / "out")))


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    sink, found = sink_of(folder), []
    for _, receipt in sink.live(sink.newest()):
        for part in getattr(receipt, kind):
            data = sink.store.read(part.name)
            data = gzip.decompress(data) if part.name.endswith(".gz") else data
            found += [json.loads(line) for line in data.splitlines()]
    return found


def live(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """Of each key: the tag, and which records gave output."""
    found: dict[str, tuple[str, list[int]]] = {}
    for record in lines(folder, "parts"):
        tag, given = found.setdefault(record["key"], (record["tag"], []))
        assert tag == record["tag"]
        given.append(record["n"])
    return found


def dead(folder: Path) -> list[tuple[str, int, int]]:
    found = [(letter["uri"], letter["record"]["n"], letter["position"]["ordinal"]) for letter in lines(folder, "dead")]
    return sorted(found)


def is_quiet(folder: Path, job: Job, number: int) -> bool:
    """Whether another run processes and publishes nothing."""
    outcome = apply(folder, job, f"quiet-{number}")
    return (outcome["splits"]["done"], outcome["counts"]["in"], outcome["manifest"]) == (0, 0, number)


@pytest.mark.parametrize("compression", ["none", "gz"])
@pytest.mark.parametrize("fields", [{}, {"concurrency": 2}], ids=["plain", "threads"])
def test_a_vanished_input_whose_sibling_changed(folder: Path, compression: str, fields: dict[str, Any]) -> None:
    job = job_of(compression=compression, **fields)
    assert apply(folder, job, "r1")["splits"]["done"] == 1
    (folder / "data/b.jsonl").unlink()
    assert is_quiet(folder, job, 1)
    write(folder, "c", [{"n": 7}])
    outcome = apply(folder, job, "r2")
    assert outcome["counts"]["in"] == 4 + 1 + 4  # what is carried over was not processed
    assert outcome["live"]["in"] == 4 + 4 + 1 + 4
    assert live(folder) == {"a": ("v1", GIVEN), "b": ("v1", GIVEN), "c": ("v1", [7]), "d": ("v1", GIVEN)}
    assert dead(folder) == [(f"data/{key}.jsonl", 1, 1) for key in "abd"]
    assert is_quiet(folder, job, 2)


@pytest.mark.parametrize("gone", ["a", "bd", "abc"])
def test_vanished_inputs_and_other_code(folder: Path, gone: str) -> None:
    apply(folder, job_of("v1"), "r1")
    for key in gone:
        (folder / f"data/{key}.jsonl").unlink()
    # Compressed in another way than what it is copied from.
    later = job_of("v2", compression="gz")
    apply(folder, later, "r2")
    assert live(folder) == {key: ("v1" if key in gone else "v2", GIVEN) for key in KEYS}
    assert dead(folder) == [(f"data/{key}.jsonl", 1, 1) for key in KEYS]
    assert is_quiet(folder, later, 2)
    # The rest of what was carried over together is carried over again; what is back is an input like others.
    write(folder, gone[0])
    apply(folder, job_of("v3"), "r3")
    assert live(folder) == {key: ("v1" if key in gone[1:] else "v3", GIVEN) for key in KEYS}
    assert is_quiet(folder, job_of("v3"), 3)


def test_a_vanished_input_without_a_record(folder: Path) -> None:
    write(folder, "b", [])
    write(folder, "a", [{"n": 2, "none": True}])
    apply(folder, job_of("v1"), "r1")
    (folder / "data/a.jsonl").unlink()
    (folder / "data/b.jsonl").unlink()
    outcome = apply(folder, job_of("v2"), "r2")
    assert (outcome["live"]["filtered"], outcome["live"]["in"]) == (1 + 2, 1 + 8)
    assert is_quiet(folder, job_of("v2"), 2)


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("fields", [{}, {"concurrency": 2}], ids=["plain", "threads"])
def test_counts_of_each_input_survive_a_slot(folder: Path, at: int, fields: dict[str, Any]) -> None:
    write(folder, "b", [])
    records = [*RECORDS]
    records.insert(at, {"n": 9, "kills": True})
    write(folder, "c", records)
    apply(folder, job_of("v1", **fields), "r1")
    assert (folder / "killed").exists()
    (receipt,) = [receipt for _, receipt in sink_of(folder).live(sink_of(folder).newest())]
    assert [counts.in_ for counts in receipt.unit_counts] == [4, 0, 5, 4]
    assert [counts.out for counts in receipt.unit_counts] == [3, 0, 4, 3]
    (folder / "data/c.jsonl").unlink()
    apply(folder, job_of("v2"), "r2")
    expected = [record["n"] for record in records if record["n"] in (0, 3, 9)]
    assert live(folder)["c"] == ("v1", [*expected, 3])
    assert os.listdir(folder / "out/_modalbatch/tmp") == []


def test_a_plan_says_kept(folder: Path) -> None:
    apply(folder, job_of(), "r1")
    (folder / "data/b.jsonl").unlink()
    write(folder, "c", [{"n": 7}])
    job, roots = job_of(), {"": f"{folder}/"}
    with module_path(folder):
        found = plan(
            job, sink_of(folder), open_source(job, roots), fingerprint(job, hash_code(job.modules)), keep=False
        )
    assert (found.tally.kept, found.tally.changed, found.tally.new, found.tally.removed) == (0, 3, 0, 1)
    assert (found.n_todo, found.is_published, found.reasons.removed.examples) == (3, False, ("data/b.jsonl",))


def test_a_part_that_was_altered_is_not_carried_over(folder: Path) -> None:
    apply(folder, job_of("v1"), "r1")
    (folder / "data/b.jsonl").unlink()
    (part,) = (folder / "out").glob("part-*")
    part.write_bytes(part.read_bytes().replace(b"v1", b"v9"))
    outcome = run_job(job_of("v2"), folder, run_id="r2")
    assert outcome["exit_code"] == 75
    assert outcome["error"]["message"] == f"1 inputs or ranges are not done: `{part.name}` of the sink was altered"
    assert "on_removed: drop" in outcome["error"]["hint"]
    assert sink_of(folder).newest_number() == 1


def test_a_run_that_ends_before_its_manifest_is_continued(folder: Path) -> None:
    apply(folder, job_of("v1"), "r1")
    (folder / "data/b.jsonl").unlink()
    job = job_of("v2")

    class Broken(Pool):
        async def map(self, feed: Any, **options: Any) -> Any:
            n = 0
            async for answer in super().map(feed, **options):
                yield answer
                if "is_carried" in answer:
                    raise ConnectionError("gone")
                n += 1

    with module_path(folder):
        broken = Broken(job)
        try:
            assert run_job(job, folder, run_id="r2", pool=broken)["exit_code"] == 75
        finally:
            broken.close()
    outcome = apply(folder, job, "r3")
    assert outcome["counts"]["in"] == 0
    assert live(folder) == {key: ("v1" if key == "b" else "v2", GIVEN) for key in KEYS}
    assert is_quiet(folder, job, 2)
