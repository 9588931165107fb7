"""The commit of one attempt, step by step, on a store in memory."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from memory_store import Memory, MemoryStore
from modalbatch.job import Compute, Handler, Job, Sink, Source
from modalbatch.names import dead_name, part_name, receipt_name
from modalbatch.records import Counts, Receipt, Split, Unit
from modalbatch.runtime.commit import commit_attempt, find_committed
from modalbatch.sinks.objects import ObjectSink

FP = "f" * 64
MINE, OTHER = "a" * 32, "b" * 32
UNITS = (Unit("u", "1", "", 0, 10, False), Unit("v", "1", "", 0, 10, False))
SPLIT = Split(units=UNITS, generation=3, fingerprint=FP, run_id="r", roots={})
COUNTS = [Counts(in_=3, out_of=1, dead=1, filtered=1, out=2), Counts(in_=1, out_of=1, out=1, blank=1)]
TOTAL = Counts(in_=4, out_of=2, dead=1, filtered=1, out=3, blank=1)


class Watched(MemoryStore):
    """Notes what is done, in order."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Memory(), folder)
        self.done: list[tuple[str, str]] = []

    def changed(self, verb: str, name: str) -> None:
        self.done.append((verb, name))

    def commit(self) -> None:
        self.done.append(("commit", ""))


@pytest.fixture
def sink(tmp_path: Path) -> ObjectSink:
    return ObjectSink(Watched(tmp_path))


def job_of(**fields: Any) -> Job:
    defaults: dict[str, Any] = {"compute": Compute(timeout_s=100), "sink": Sink(uri="/nowhere/")}
    return Job(name="j", handler=Handler(call="a:b"), source=Source(uris=("x",)), **defaults | fields)


def answer(part: bytes = b"part\n", dead: bytes = b"dead\n") -> dict[str, Any]:
    files = {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in (("part", part), ("dead", dead))}
    return {"counts": asdict(TOTAL), "units": [asdict(item) for item in COUNTS], **files}


def commit(
    sink: ObjectSink, found: dict[str, Any], *, elapsed_s: float = 1.5, attempt: str = MINE, job: Job | None = None
) -> Any:
    folder = sink.store.spool_dir()
    paths = folder / "part", folder / "dead"
    paths[0].write_bytes(b"part\n")
    paths[1].write_bytes(b"dead\n")
    return commit_attempt(job or job_of(), sink, SPLIT, attempt, answer=found, paths=paths, elapsed_s=lambda: elapsed_s)


def names(attempt: str = MINE, suffix: str = ".jsonl") -> tuple[str, str, str]:
    return part_name(SPLIT.id, attempt, suffix), dead_name(SPLIT.id, attempt), receipt_name(SPLIT.id, FP, 3)


def test_parts_then_dead_letters_then_the_receipt(sink) -> None:
    part, dead, receipt = names()
    said = commit(sink, answer())
    assert sink.store.done == [("put", part), ("put", dead), ("create", receipt), ("commit", "")]
    assert said == {"status": "done", "receipt": receipt, "counts": TOTAL.to_json(), "seconds": 1.5}
    stands = sink.read_receipt(receipt)
    assert stands == Receipt(
        split=SPLIT.id,
        fingerprint=FP,
        generation=3,
        attempt=MINE,
        run_id="r",
        units=UNITS,
        unit_counts=tuple(COUNTS),
        parts=((part, 5, hashlib.sha256(b"part\n").hexdigest(), 3),),
        dead=((dead, 5, hashlib.sha256(b"dead\n").hexdigest(), 1),),
        counts=TOTAL,
        seconds=1.5,
    )
    assert find_committed(sink, SPLIT) == said


def test_nothing_is_committed_yet(sink) -> None:
    assert find_committed(sink, SPLIT) is None


@pytest.mark.parametrize(("compression", "suffix"), [("gz", ".jsonl.gz"), ("zst", ".jsonl.zst")])
def test_the_name_of_a_part_says_its_compression(sink, compression, suffix) -> None:
    commit(sink, answer(), job=job_of(sink=Sink(uri="/nowhere/", compression=compression)))
    assert sink.store.done[0] == ("put", names(suffix=suffix)[0])


def test_the_receipt_says_where_it_was_made(sink, monkeypatch) -> None:
    monkeypatch.setenv("MODAL_TASK_ID", "ta-1")
    commit(sink, answer(), job=job_of(compute=Compute(timeout_s=100, gpu=("H100", "A100"))))
    stands = sink.read_receipt(names()[2])
    assert (stands.container, stands.gpu) == ("ta-1", "H100")


def test_empty_files_are_no_objects(sink) -> None:
    commit(sink, answer(b"", b""))
    assert sink.store.done == [("create", names()[2]), ("commit", "")]
    stands = sink.read_receipt(names()[2])
    assert (stands.parts, stands.dead) == ((), ())


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["units"].pop(),
        lambda found: found["units"].append(asdict(Counts())),
        lambda found: found["counts"].update(in_=5),
        lambda found: found["units"][0].update(out=9),
        lambda found: (found["counts"].update(filtered=0), found["units"][0].update(filtered=0)),
    ],
    ids=["a unit less", "a unit more", "another sum", "another unit", "a record is nowhere"],
)
def test_counts_that_do_not_add_up_leave_nothing(sink, change) -> None:
    found = answer()
    change(found)
    said = commit(sink, found)
    assert (said["status"], said["error"], said["hint"]) == ("failed", "InternalError", None)
    assert said["message"].startswith("counts do not add up: Counts(in_=")
    assert sink.store.done == []


@pytest.mark.parametrize(("elapsed_s", "is_late"), [(100, False), (100.1, True)])
def test_an_attempt_that_is_over_takes_its_parts_back(sink, elapsed_s, is_late) -> None:
    part, dead, receipt = names()
    said = commit(sink, answer(), elapsed_s=elapsed_s)
    if is_late:
        assert said == {
            "status": "failed",
            "error": "Timeout",
            "message": "the attempt was over before its receipt",
            "hint": None,
        }
        assert sink.store.done[2:] == [("delete", part), ("delete", dead)]
    assert set(sink.store.memory.objects) == (set() if is_late else {part, dead, receipt})


def test_the_loser_deletes_its_own_and_answers_with_the_winner(sink) -> None:
    theirs = names(OTHER)
    won = commit(sink, answer(), attempt=OTHER)
    del sink.store.done[:]
    assert commit(sink, answer()) == won
    assert set(sink.store.memory.objects) == set(theirs)
    assert [verb for verb, _ in sink.store.done] == ["put", "put", "delete", "delete"]


def test_the_loser_leaves_what_the_winner_names(sink) -> None:
    """Eight digits of an attempt's id are in a part's name."""
    twin = MINE[:8] + "c" * 24
    part, dead, receipt = names()
    commit(sink, answer(), attempt=twin)
    sink.store.memory.objects.pop(part)
    sink.store.memory.objects.pop(dead)
    commit(sink, answer())
    assert set(sink.store.memory.objects) == {part, dead, receipt}
