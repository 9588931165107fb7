"""What the sweep takes and what it leaves, with others at work between its steps."""

from __future__ import annotations

import pytest

from memory_store import FP, Memory, MemoryStore, names, put_part
from modalbatch.driver import runs
from modalbatch.driver.sweep import sweep
from modalbatch.names import is_ours, receipt_name
from modalbatch.records import Manifest, Receipt
from modalbatch.sinks.objects import ObjectSink

TIMEOUT_S = 100


@pytest.fixture
def sink(tmp_path) -> ObjectSink:
    return ObjectSink(MemoryStore(Memory(), tmp_path))


def run_sweep(sink: ObjectSink, manifest: Manifest | None = None, **options) -> int:
    return sweep(sink, manifest, timeout_s=TIMEOUT_S, now=lambda: sink.store.memory.clock_s, **options)


def test_parts_without_a_receipt_go_once_no_attempt_can_commit_them(sink) -> None:
    young, old = put_part(sink, "young", age_s=2 * TIMEOUT_S), put_part(sink, "old", age_s=2 * TIMEOUT_S + 1)
    assert run_sweep(sink) == 1
    assert names(sink) == {young.parts[0].name}
    assert old.parts[0].name not in names(sink)


def test_a_receipt_keeps_its_parts_at_any_age(sink) -> None:
    sink.commit(put_part(sink, "old", age_s=10**6))
    before = names(sink)
    assert run_sweep(sink, none_is_running=lambda: True) == 0
    assert names(sink) == before


def test_where_nothing_runs_age_does_not_matter(sink) -> None:
    put_part(sink, "young")
    assert run_sweep(sink, none_is_running=lambda: True) == 1
    assert names(sink) == set()


def test_an_attempt_that_commits_and_ends_while_the_sweep_looks_keeps_its_parts(sink) -> None:
    """Nothing runs any more, because what ran has just committed: only then listed receipts can tell."""
    receipt = put_part(sink, "late")

    def none_is_running() -> bool:
        sink.commit(receipt)
        return True

    assert run_sweep(sink, none_is_running=none_is_running) == 0
    assert receipt.parts[0].name in names(sink)


def test_a_torn_receipt_keeps_every_part(sink) -> None:
    put_part(sink, "old", age_s=10**6)
    sink.store.memory.put(receipt_name("0" * 24, FP, 1), b'{"format":1,')
    assert run_sweep(sink) == 0


def test_retired_receipts_go_with_their_parts_unless_another_names_them(sink) -> None:
    gone = put_part(sink, "a", "a" * 32)
    carried = put_part(sink, "b", "b" * 32)
    for receipt in (gone, carried):
        sink.commit(receipt)
    later = Receipt(**{name: getattr(carried, name) for name in carried.__slots__} | {"generation": 2})
    sink.commit(later)
    retired = tuple(receipt_name(item.split, FP, 1) for item in (gone, carried))
    assert run_sweep(sink, Manifest(number=2, run_id="r", accepted=(FP,), retired=retired)) == 3
    assert names(sink) == {carried.parts[0].name, receipt_name(carried.split, FP, 2)}


def test_with_nothing_to_delete_the_count_is_nothing(sink) -> None:
    sink.commit(put_part(sink, "a"))
    gone = receipt_name("0" * 24, FP, 1)
    assert run_sweep(sink, Manifest(number=1, run_id="r", accepted=(FP,))) == 0
    assert run_sweep(sink, Manifest(number=1, run_id="r", accepted=(FP,), retired=(gone,))) == 0


def test_half_written_files_go_by_the_longest_timeout(sink) -> None:
    asked = []
    sink.store.sweep_unfinished = lambda *arguments: asked.append(arguments)
    run_sweep(sink)
    runs.begin(sink, runs.Request(run_id="long"), "j", FP, 0.0, timeout_s=10 * TIMEOUT_S)
    run_sweep(sink)
    assert asked == [(2 * TIMEOUT_S, is_ours), (20 * TIMEOUT_S, is_ours)]


def test_a_receipt_that_goes_while_the_sweep_looks_holds_nothing_back(sink) -> None:
    put_part(sink, "orphan")
    sink.commit(put_part(sink, "other"))

    def none_is_running() -> bool:
        sink.delete([name for name in names(sink) if name.endswith(".json")])
        return True

    assert run_sweep(sink, none_is_running=none_is_running) == 1


def test_names_that_are_nearly_ours_stay(sink) -> None:
    foreign = [
        "part-x.jsonl",
        f"part-{'0' * 24}-{'0' * 8}.JSONL",
        f"part-{'0' * 24}-{'0' * 8}",
        f"sub/part-{'0' * 24}-{'0' * 8}.jsonl",
        f"_modalbatch/dead/{'0' * 24}-{'0' * 8}.jsonl.bak",
        "_modalbatch/receipts/notes.json",
    ]
    sink.store.memory.clock_s -= 10**6
    for name in foreign:
        sink.store.memory.put(name, b"")
    sink.store.memory.clock_s += 10**6
    assert run_sweep(sink, none_is_running=lambda: True) == 0
    assert names(sink) == set(foreign)


# -- who is running


def begin(sink: ObjectSink, run_id: str, engine: str, *, home: str = "/h", kind: str = "local") -> int:
    request = runs.Request(run_id=run_id, engine={"kind": kind, "home": home, "id": engine})
    runs.begin(sink, request, "job", FP, 0.0)
    return runs.take_epoch(sink, run_id, "driver")


@pytest.mark.parametrize(
    ("engine", "home", "kind", "ended", "expected"),
    [
        ("mine", "/h", "local", None, False),
        ("mine", "/h", "local", {"out": 0}, True),
        ("mine", "/h", "local", {"out": 2}, False),
        ("older", "/h", "local", None, True),
        ("other", "/elsewhere", "local", None, False),
        ("other", "/elsewhere", "local", {}, True),
        ("", "", "modal", None, False),
        ("", "", "modal", {}, True),
    ],
)
def test_none_is_running(sink, engine, home, kind, ended, expected) -> None:
    begin(sink, "own", "mine")
    epoch = begin(sink, "other", engine, home=home, kind=kind)
    if ended is not None:
        runs.end(sink, "other", epoch, ended)
    assert runs.none_is_running(sink, "/h", "mine", run_id="own") is expected


def test_a_driver_that_was_superseded_does_not_end_the_run(sink) -> None:
    first = begin(sink, "run", "mine")
    second = runs.take_epoch(sink, "run", "second")
    runs.end(sink, "run", first, {"status": "failed"})
    assert runs.read_run(sink, "run")["end"] is None
    runs.end(sink, "run", second, {"status": "done"})
    assert runs.read_run(sink, "run")["end"]["status"] == "done"


def test_an_end_that_was_written_before_another_driver_came_does_not_count(sink) -> None:
    epoch = begin(sink, "run", "mine")
    runs.end(sink, "run", epoch, {"status": "failed"})
    runs.take_epoch(sink, "run", "second")
    assert runs.read_run(sink, "run")["end"] is None
    assert not runs.none_is_running(sink, "/h", "mine", run_id="own")
