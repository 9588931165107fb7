"""The driver against maps that misbehave: what is fed, fed again, given up, and how the run ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from memory_store import Memory, MemoryStore
from modalbatch.canonical import encode
from modalbatch.driver import runs
from modalbatch.driver.plan import Packing, SplitMaker
from modalbatch.errors import InputChangedError
from modalbatch.job import Source
from modalbatch.records import Split
from modalbatch.sinks.objects import ObjectSink
from scripted_map import BIG, Inputs, commit, drive, failed


@pytest.fixture
def sink(tmp_path) -> ObjectSink:
    return ObjectSink(MemoryStore(Memory(), tmp_path))


def test_exceptions_of_the_map_are_fed_again(sink) -> None:
    def answer(text, nth):
        return RuntimeError("the container is gone") if nth == 1 else commit(sink, text)

    outcome, seen, _ = drive(sink, Inputs(7), answer)
    assert (outcome["exit_code"], set(seen.values())) == (0, {2})


def test_an_exception_after_the_receipt_runs_nothing_new(sink) -> None:
    def answer(text, nth):
        done = commit(sink, text)
        return RuntimeError("the reply is lost") if nth == 1 else done

    outcome, seen, _ = drive(sink, Inputs(5), answer)
    assert outcome["exit_code"] == 0
    assert outcome["splits"]["done"] == 5
    assert all(Split.from_text(text).generation == 1 for text in seen)


def test_what_was_committed_of_a_divided_split_counts_though_its_answer_is_lost(sink) -> None:
    """F20 D"""

    def answer(text, nth):
        split = Split.from_text(text)
        (unit,) = split.units
        if unit.is_piece or unit.uri == "u0001":
            return commit(sink, text)
        commit(sink, replace(split, units=(unit.piece(0, 5),)).to_text())
        return RuntimeError("the container is gone")

    outcome, seen, _ = drive(sink, Inputs(3), answer)
    assert (outcome["exit_code"], outcome["splits"]["done"]) == (0, 5)
    fed = [(unit.uri, unit.low) for text in seen for unit in Split.from_text(text).units]
    assert sorted(fed) == [("u0000", 0), ("u0000", 5), ("u0001", 0), ("u0002", 0), ("u0002", 5)]
    assert set(seen.values()) == {1}
    assert len(dict(sink.live(sink.newest()))) == 5


def test_splits_that_never_answer_end_the_run_for_now(sink) -> None:
    outcome, seen, _ = drive(sink, Inputs(3), lambda text, nth: RuntimeError("gone"))
    assert outcome["exit_code"] == 75
    assert outcome["error"]["message"] == "3 splits came back without a receipt"
    assert outcome["error"]["hint"] == "apply again: what is done stays done"
    assert set(seen.values()) == {5}


def test_failures_are_repeated_as_often_as_the_spec_says(sink) -> None:
    def answer(text, nth):
        return failed(text) if "u0001" in text else commit(sink, text)

    outcome, seen, _ = drive(sink, Inputs(3), answer)
    assert outcome["exit_code"] == 75
    assert outcome["error"]["message"] == "1 inputs or ranges are not done: no luck"
    assert sorted(seen.values()) == [1, 1, 3]
    assert outcome["splits"] == {"done": 2, "failed": 1, "kept": 0}


def test_an_input_that_changed_is_not_tried_again(sink) -> None:
    outcome, seen, _ = drive(sink, Inputs(1), lambda text, nth: failed(text, error=InputChangedError.__name__))
    assert outcome["exit_code"] == 75
    assert list(seen.values()) == [1]


@pytest.mark.parametrize("n_units", [1, 50])
def test_a_map_that_breaks_ends_the_run_in_words(sink, n_units) -> None:
    def answer(text, nth):
        raise ConnectionError("no route")

    outcome, _, _ = drive(sink, Inputs(n_units), answer)
    assert (outcome["status"], outcome["exit_code"]) == ("failed", 75)
    assert outcome["error"]["message"] == "the engine does not answer any more: ConnectionError: no route"
    # Attempts may still be on their way: the end of the run says so to sweeps.
    assert runs.read_run(sink, "run")["end"]["out"] >= 1


def test_an_answer_that_nobody_understands_is_a_bug_and_ends_the_run(sink) -> None:
    outcome, _, _ = drive(sink, Inputs(2), lambda text, nth: '{"no": "status"}')
    assert outcome["exit_code"] == 3
    assert outcome["error"]["message"] == "KeyError: 'status'"


def test_a_ledger_that_cannot_be_written_stops_nothing(sink, monkeypatch) -> None:
    from modalbatch.driver import ledger
    from modalbatch.errors import UnavailableError

    monkeypatch.setattr(ledger, "MOST_EVENTS", 2)
    replace = sink.store.replace

    def refuse(name, data):
        if "ledger" in name:
            raise UnavailableError("disk full")
        replace(name, data)

    sink.store.replace = refuse
    outcome, _, _ = drive(sink, Inputs(9), lambda text, nth: commit(sink, text))
    assert outcome["exit_code"] == 0
    assert sink.success()["manifest"] == 1


@pytest.mark.parametrize("containers", [1, 3])
def test_the_window_is_never_exceeded(sink, containers) -> None:
    from modalbatch.driver.run import WINDOW_PER_SLOT

    outcome, seen, most_out = drive(sink, Inputs(60), lambda text, nth: commit(sink, text), containers=containers)
    assert outcome["exit_code"] == 0
    assert len(seen) == 60
    assert most_out <= WINDOW_PER_SLOT * containers


def test_two_failed_starts_before_any_record_stop_the_run(sink) -> None:
    error = {"type": "ImportError", "message": "no torch", "traceback": "Traceback…"}
    outcome, seen, _ = drive(
        sink,
        Inputs(30),
        lambda text, nth: encode({"status": "start_failed", "error": error, "task": text, "split": ""}),
    )
    assert outcome["status"] == "stopped"
    assert outcome["error"]["message"] == "the handler does not start: ImportError: no torch\nTraceback…"
    assert sum(seen.values()) <= 4


def test_one_failed_start_is_an_accident(sink) -> None:
    error = {"type": "ImportError", "message": "no torch", "traceback": ""}

    def answer(text, nth):
        if len(starts) < 1:
            starts.append(text)
            return encode({"status": "start_failed", "error": error, "task": text, "split": ""})
        return commit(sink, text)

    starts: list[str] = []
    assert drive(sink, Inputs(3), answer)[0]["exit_code"] == 0


def test_a_stop_object_ends_the_feed_and_publishes_nothing(sink) -> None:
    def answer(text, nth):
        runs.ask_to_stop(sink, "run", "enough")
        return commit(sink, text)

    outcome, _, _ = drive(sink, Inputs(3), answer)
    # Three splits are out at once: whether the look comes before the last answer decides, and both are right.
    assert outcome["exit_code"] in (0, 130)
    runs.ask_to_stop(sink, "later", "enough")
    outcome, seen, _ = drive(sink, Inputs(500), lambda text, nth: commit(sink, text), run_id="later")
    assert (outcome["status"], outcome["exit_code"]) == ("stopped", 130)
    assert len(seen) < 500


def test_a_second_driver_of_a_run_makes_the_first_leave(sink) -> None:
    def answer(text, nth):
        if not taken:
            taken.append(runs.take_epoch(sink, "run", "other"))
        return commit(sink, text)

    taken: list[int] = []
    outcome, _, _ = drive(sink, Inputs(3), answer)
    assert (outcome["exit_code"], outcome["error"]["message"]) == (75, "another driver of this run took over")
    assert sink.newest() is None
    assert runs.read_run(sink, "run")["end"] is None


def test_an_empty_source(sink) -> None:
    outcome, _, _ = drive(sink, Inputs(0), lambda text, nth: commit(sink, text))
    assert outcome["exit_code"] == 2
    assert outcome["error"]["message"] == "no input matches `x`"
    outcome, _, _ = drive(sink, Inputs(0), None, source=Source(uris=("x",), allow_empty=True), run_id="again")
    assert outcome["exit_code"] == 0


# -- packs


class NoVoids:
    def generation(self, split: str, fingerprint: str, at_least: int) -> int:
        return at_least


def packs(n_units: int, n_bytes: int, *, containers: int = 1, **packing: Any) -> list[int]:
    maker = SplitMaker(
        fingerprint="f" * 64,
        run_id="r",
        roots={},
        index=NoVoids(),
        generation=1,
        containers=containers,
        packing=Packing(**packing),
    )
    splits = list(maker.splits(Inputs(n_units, n_bytes).units()))
    assert [unit.uri for split in splits for unit in split.units] == [unit.uri for unit in Inputs(n_units).units()]
    assert all(len(split.to_text()) < 8192 for split in splits)
    return [len(split.units) for split in splits]


def test_large_units_are_splits_of_their_own() -> None:
    assert packs(5, BIG) == [1] * 5


def test_few_small_units_are_spread_over_the_containers() -> None:
    assert packs(8, 1000, containers=2) == [1] * 8
    assert packs(80, 1000, containers=2) == [10] * 8


def test_a_pack_is_full_by_number_bytes_or_reference() -> None:
    assert max(packs(2000, 10, is_eager=False)) <= 100
    assert max(packs(300, 1 << 20, is_eager=False)) <= 64
    assert set(packs(10, 10, is_eager=False, units=3)) == {3, 1}
