"""How a run ends when others publish, stores fail, or nothing starts: `_SUCCESS`, notes, exit codes."""

from __future__ import annotations

import pytest

from memory_store import Memory, MemoryStore, put_part
from modalbatch.canonical import encode
from modalbatch.driver import runs
from modalbatch.driver.ledger import Ledger
from modalbatch.driver.publish import mark_success
from modalbatch.driver.sweep import sweep
from modalbatch.errors import StateError, UnavailableError
from modalbatch.job import Compute
from modalbatch.names import receipt_name
from modalbatch.records import Manifest, Receipt, Split
from modalbatch.sinks.attempts import AttemptSink
from modalbatch.sinks.objects import ObjectSink
from scripted_map import Inputs, commit, drive, failed


@pytest.fixture
def sink(tmp_path) -> ObjectSink:
    return ObjectSink(MemoryStore(Memory(), tmp_path))


def manifest(number: int) -> Manifest:
    return Manifest(number=number, run_id="r", accepted=("f" * 64,))


def ledger(sink: ObjectSink, run_id: str = "run") -> str:
    entries = sink.store.list(f"_modalbatch/runs/{run_id}/ledger-")
    return "".join(sink.store.read(entry.name).decode() for entry in entries)


START_ERROR = {"type": "ImportError", "message": "no torch", "traceback": ""}


def no_start(text: str, nth: int) -> str:
    return encode({"status": "start_failed", "error": START_ERROR, "task": text, "split": ""})


def test_success_is_never_of_an_older_manifest(sink) -> None:
    sink.publish(manifest(1))
    sink.publish(manifest(2))
    assert not mark_success(sink, manifest(1))
    assert sink.success() is None
    assert mark_success(sink, manifest(2))


def test_success_goes_when_another_run_publishes_while_it_is_written(sink) -> None:
    sink.publish(manifest(1))
    sink.store.changed = lambda verb, name: name == "_SUCCESS" and verb == "replace" and sink.publish(manifest(2))
    assert not mark_success(sink, manifest(1))
    assert sink.success() is None


def test_a_start_up_error_leaves_success_as_it_was(sink) -> None:
    assert drive(sink, Inputs(1), lambda text, nth: commit(sink, text), run_id="first")[0]["exit_code"] == 0
    before = sink.success()
    assert drive(sink, Inputs(3), no_start, run_id="second")[0]["exit_code"] == 2
    assert sink.success() == before
    assert before is not None


def test_a_sweep_that_fails_is_a_warning(sink) -> None:
    def refuse(older_than_s, is_ours):
        raise UnavailableError("access denied")

    sink.store.sweep_unfinished = refuse
    outcome, _, _ = drive(sink, Inputs(2), lambda text, nth: commit(sink, text))
    assert outcome["exit_code"] == 0
    assert outcome["warnings"] == ["the sweep failed, the next `apply` sweeps again: access denied"]
    assert "sweep_failed" in ledger(sink)
    assert sink.success()["manifest"] == 1


def test_a_look_that_fails_is_not_the_last(sink, monkeypatch) -> None:
    monkeypatch.setattr("modalbatch.driver.lookout.LOOK_S", 0.0)
    monkeypatch.setattr("modalbatch.driver.lookout.REPORT_S", 0.0)
    runs.ask_to_stop(sink, "run", "enough")
    n_looks = 0

    def before(verb: str, name: str) -> None:
        nonlocal n_looks
        if verb == "stat" and name.endswith("/stop"):
            n_looks += 1
            if n_looks == 1:
                raise UnavailableError("503 slow down")

    sink.store.before = before
    outcome, _, _ = drive(sink, Inputs(500), lambda text, nth: commit(sink, text))
    assert outcome["exit_code"] == 130
    assert "look_failed" in ledger(sink)


@pytest.mark.parametrize(("error", "code"), [(OSError(28, "No space left on device"), 75), (ValueError("bug"), 3)])
def test_any_exception_ends_in_words(sink, error, code) -> None:
    class Broken(Inputs):
        def units(self):
            yield from super().units()
            raise error

    outcome, _, _ = drive(sink, Broken(1), lambda text, nth: commit(sink, text))
    assert (outcome["status"], outcome["exit_code"]) == ("failed", code)
    assert runs.read_run(sink, "run")["end"]["exit_code"] == code


def test_an_error_before_the_plan_ends_in_words(sink, monkeypatch) -> None:
    def broken(*args, **options):
        raise AttributeError("bug")

    monkeypatch.setattr("modalbatch.driver.run.read_sink", broken)
    outcome, _, _ = drive(sink, Inputs(1), lambda text, nth: commit(sink, text))
    assert (outcome["exit_code"], outcome["error"]["message"]) == (3, "AttributeError: bug")
    assert runs.read_run(sink, "run")["end"]["exit_code"] == 3


def test_a_failure_without_a_message(sink) -> None:
    outcome, _, _ = drive(sink, Inputs(1), lambda text, nth: failed(text, error="Killed", message=""))
    assert outcome["error"]["message"] == "1 inputs or ranges are not done: Killed"


def test_a_receipt_that_is_seen_late_counts(tmp_path) -> None:
    """A Volume that cannot be refreshed shows the receipt later: its split is not done again."""
    sink = AttemptSink(MemoryStore(Memory(), tmp_path), None)
    hidden: dict[str, bytes] = {}
    is_busy = True

    def answer(text: str, nth: int) -> str:
        split = Split.from_text(text)
        commit(sink, text)
        name = receipt_name(split.id, split.fingerprint, split.generation, "a" * 32)
        hidden[name] = sink.store.memory.objects.pop(name).data
        return encode({"status": "done", "receipt": name, "split": split.id})

    def refresh() -> None:
        nonlocal is_busy
        if hidden and is_busy:
            is_busy = False
            raise UnavailableError("open files")
        if not is_busy:
            for name in list(hidden):
                sink.store.memory.put(name, hidden.pop(name))

    sink.store.refresh = refresh
    outcome, seen, _ = drive(sink, Inputs(1), answer, delivery="at_least_once")
    assert (outcome["exit_code"], outcome["splits"]["done"], list(seen.values())) == (0, 1, [1])


def test_a_deleted_sink_does_not_bind_the_one_after_it(tmp_path) -> None:
    entries: dict[str, str] = {}
    for run_id in ("old", "new"):
        sink = AttemptSink(MemoryStore(Memory(), tmp_path), entries.setdefault)
        sink.claim({"format": 1, "name": "j"})
        assert sink.publish(Manifest(number=1, run_id=run_id, accepted=()))
    assert len(entries) == 2


def test_attempts_of_others_are_measured_with_their_own_timeout(sink) -> None:
    request = runs.Request(run_id="long", engine={"kind": "modal"})
    runs.begin(sink, request, "j", "f" * 64, 0.0, timeout_s=86400.0)
    part = put_part(sink, "young", age_s=1000).parts[0].name
    options = {"timeout_s": 1.0, "now": lambda: sink.store.memory.clock_s}
    assert sweep(sink, None, **options) == 0
    runs.end(sink, "long", 1, {"exit_code": 0})
    assert sweep(sink, None, **options) == 1
    assert sink.store.stat(part) is None


def test_ages_are_measured_by_the_clock_of_the_store(sink) -> None:
    """That of `MemoryStore` is some fifty years behind this machine's."""
    drive(sink, Inputs(1), lambda text, nth: commit(sink, text), run_id="before")
    young = put_part(sink, "of another run").parts[0].name
    old = put_part(sink, "old", age_s=10_000).parts[0].name
    drive(sink, Inputs(1), lambda text, nth: commit(sink, text), compute=Compute(timeout_s=77))
    assert (sink.store.stat(young) is None, sink.store.stat(old) is None) == (False, True)


def test_a_ledger_without_an_object_knows_no_clock(sink) -> None:
    ledger = Ledger(sink.store, "run", "driver")
    assert ledger.store_clock_s() == float("-inf")
    ledger.add("x")
    ledger.flush()
    assert ledger.store_clock_s() == sink.store.memory.clock_s
    sink.store.delete([entry.name for entry in sink.store.list()])
    assert ledger.store_clock_s() == float("-inf")


def test_the_run_tells_its_timeout(sink) -> None:
    drive(sink, Inputs(1), lambda text, nth: commit(sink, text), compute=Compute(timeout_s=77))
    assert runs.read_run(sink, "run")["timeout_s"] == 77


@pytest.mark.parametrize("field", ["counts", "parts", "inputs"])
def test_an_altered_receipt_is_a_state_error(sink, field) -> None:
    receipt = put_part(sink, "u")
    with pytest.raises(StateError, match="not a receipt"):
        Receipt.from_json({**receipt.to_json(), field: 7 if field != "counts" else []})
