"""The exit code of a run by its numbers: every row of `guarantees.md` section 6 that goes by records."""

from __future__ import annotations

from typing import Any

import pytest

from memory_store import Memory, MemoryStore
from modalbatch.canonical import encode
from modalbatch.driver.verdict import SHARE_AFTER_RECORDS, judge
from modalbatch.job import Handler, Job, OnError, Sink, Source
from modalbatch.records import Counts, Receipt, Split
from modalbatch.sinks.objects import ObjectSink
from scripted_map import Inputs, drive


def job_of(**on_error: Any) -> Job:
    return Job(
        name="j",
        handler=Handler(call="a:b"),
        source=Source(uris=("x",)),
        sink=Sink(uri="/out/"),
        on_error=OnError(**on_error),
    )


def counts(n: int, dead: int = 0, dropped: int = 0) -> Counts:
    return Counts(in_=n, out_of=n - dead - dropped, dead=dead, dropped=dropped, out=n - dead - dropped)


@pytest.mark.parametrize(
    ("on_error", "found", "code"),
    [
        ({}, counts(0), 0),
        ({}, counts(10), 0),
        ({}, counts(10, dead=1), 1),
        ({"record": "drop"}, counts(10, dropped=9), 0),
        ({"record": "drop"}, counts(10, dropped=10), 1),
        ({"max_failed": 0}, counts(10), 0),
        ({"max_failed": 0}, counts(10, dead=1), 5),
        ({"max_failed": 2}, counts(10, dead=2), 0),
        ({"max_failed": 2}, counts(10, dead=1, dropped=2), 5),
        ({"max_failed": 10}, counts(10, dead=10), 1),
        ({"max_failed": 9}, counts(10, dead=10), 5),
        ({"max_failed_share": 0.1}, counts(10, dead=1), 0),
        ({"max_failed_share": 0.1}, counts(10, dead=2), 5),
        ({"max_failed_share": 1.0}, counts(10, dead=10), 1),
        ({"max_failed_share": 0.0}, counts(0), 0),
    ],
)
def test_at_the_end(on_error: dict[str, Any], found: Counts, code: int) -> None:
    judged = judge(job_of(**on_error), found, is_final=True)
    assert judged.code == code
    # What is published with dead letters needs no words: the numbers say it.
    assert (judged.error is None) == (code == 0 or (code == 1 and found.in_ != found.dead + found.dropped))


@pytest.mark.parametrize(
    ("on_error", "found", "code"),
    [
        ({}, counts(5000, dead=5000), 0),
        ({"max_failed": 3}, counts(5, dead=3), 0),
        ({"max_failed": 3}, counts(5, dead=2, dropped=2), 5),
        ({"max_failed_share": 0.5}, counts(SHARE_AFTER_RECORDS - 1, dead=SHARE_AFTER_RECORDS - 1), 0),
        ({"max_failed_share": 0.5}, counts(SHARE_AFTER_RECORDS, dead=500), 0),
        ({"max_failed_share": 0.5}, counts(SHARE_AFTER_RECORDS, dead=501), 5),
    ],
)
def test_while_it_runs(on_error: dict[str, Any], found: Counts, code: int) -> None:
    assert judge(job_of(**on_error), found, is_final=False).code == code


def test_the_words() -> None:
    error = judge(job_of(max_failed=3), counts(9, dead=4), is_final=True).error
    assert error is not None
    assert (error.message, error.hint) == (
        "4 of 9 records failed, more than on_error.max_failed: 3",
        "mend the handler, or raise on_error.max_failed; finished splits stay done",
    )
    error = judge(job_of(max_failed_share=0.015), counts(10, dead=1), is_final=True).error
    assert error is not None
    assert error.message == "1 of 10 records failed, more than on_error.max_failed: 0.015 of all"


@pytest.fixture
def sink(tmp_path) -> ObjectSink:
    return ObjectSink(MemoryStore(Memory(), tmp_path))


def half_dead(sink: ObjectSink, n: int):
    """Answers with receipts of `n` records of which half are dead."""

    def answer(text: str, nth: int) -> str:
        split = Split.from_text(text)
        receipt = Receipt(
            split=split.id,
            fingerprint=split.fingerprint,
            generation=split.generation,
            attempt="a" * 32,
            run_id=split.run_id,
            units=split.units,
            counts=Counts(in_=n, filtered=n - n // 2, dead=n // 2),
        )
        sink.commit(receipt)
        name = sink.receipt_name(split.id, split.fingerprint, split.generation, receipt.attempt)
        return encode({"status": "done", "receipt": name, "split": split.id})

    return answer


@pytest.mark.parametrize(
    ("on_error", "n_records", "most_run"),
    [({"max_failed": 9}, 4, 10), ({"max_failed_share": 0.4}, 100, 16), ({"max_failed_share": 0.4}, 1000, 7)],
)
def test_a_fence_stops_the_feed_and_a_higher_one_continues(sink, on_error, n_records, most_run) -> None:
    """F28: failures stop a run before it has paid for all of them; what is done stays done."""
    answer = half_dead(sink, n_records)
    outcome, seen, _ = drive(sink, Inputs(100), answer, run_id="first", on_error=OnError(**on_error))
    assert (outcome["status"], outcome["exit_code"]) == ("stopped", 5)
    assert sink.newest() is None and sink.success() is None
    assert 0 < len(seen) <= most_run
    assert outcome["splits"]["done"] == len(seen)
    again, more, _ = drive(sink, Inputs(100), answer, run_id="second", on_error=OnError(max_failed=10**6))
    assert (again["exit_code"], len(more)) == (0, 100 - len(seen))
    assert again["live"]["in"] == 100 * n_records


def test_a_share_that_few_records_exceed_is_judged_at_the_end(sink) -> None:
    outcome, seen, _ = drive(sink, Inputs(20), half_dead(sink, 4), on_error=OnError(max_failed_share=0.4))
    assert (outcome["status"], outcome["exit_code"], len(seen)) == ("failed", 5, 20)
    assert sink.newest() is None
    outcome, seen, _ = drive(sink, Inputs(20), half_dead(sink, 4), run_id="2", on_error=OnError(max_failed_share=0.5))
    assert (outcome["exit_code"], len(seen)) == (0, 0)
