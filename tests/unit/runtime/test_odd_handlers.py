"""Handlers that do what no handler should: the record pays, nobody else."""

from __future__ import annotations

import pytest

from modalbatch.job import Compute, Retries

RECORDS = [{"n": n, "x": 0} for n in range(8)]
OTHERS = [n for n in range(8) if n != 3]


def test_another_try_never_sees_what_an_earlier_one_changed(run) -> None:
    code = """
    def work(records):
        for record in records:
            record["x"] += 1
        if any(record["n"] == 3 for record in records):
            raise ValueError("three")
        return records
    """
    ran = run(code, RECORDS, batch_size=8)
    assert sorted((record["n"], record["x"]) for record in ran.records) == [(n, 1) for n in OTHERS]
    assert [letter["record"] for letter in ran.letters] == [{"n": 3, "x": 0}]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize(
    ("raised", "cause"),
    [("asyncio.CancelledError", "raised"), ("SystemExit(2)", "raised"), ("KeyboardInterrupt", "crash")],
)
def test_what_ends_programs_ends_one_record(run, raised, cause, concurrency) -> None:
    code = f"""
    import asyncio
    async def work(record):
        if record["n"] == 3:
            raise {raised}
        return record
    """
    ran = run(code, RECORDS, concurrency=concurrency)
    assert sorted(record["n"] for record in ran.records) == OTHERS
    assert [letter["cause"] for letter in ran.letters] == [cause]


@pytest.mark.parametrize("after", ["-5", "float('nan')", "'soon'", "float('-inf')"])
def test_a_wait_that_is_no_time_is_none(run, after) -> None:
    code = f"""
    import modalbatch
    asked = []
    def work(record):
        if record["n"] == 3 and not asked:
            asked.append(1)
            raise modalbatch.Retry(after={after})
        return record
    """
    ran = run(code, RECORDS, retries=Retries(initial_delay_s=0.0))
    assert ran.counts == (8, 8, 0, 0, 0)


def test_a_call_that_hangs_is_found_without_a_timeout_of_its_own(run) -> None:
    code = """
    import time
    def work(record):
        if record["n"] == 3:
            time.sleep(1000)
        return record
    """
    ran = run(code, RECORDS, compute=Compute(timeout_s=2))
    assert sorted(record["n"] for record in ran.records) == OTHERS
    assert [letter["cause"] for letter in ran.letters] == ["timeout"]


def test_a_constructor_may_take_longer_than_a_split(run) -> None:
    code = """
    import time
    class Work:
        def __init__(self):
            time.sleep(2.5)
        def __call__(self, record):
            return record
    """
    ran = run(code, RECORDS, call="Work", compute=Compute(timeout_s=2, startup_timeout_s=60))
    assert ran.counts == (8, 8, 0, 0, 0)


@pytest.mark.parametrize("fields", [{}, {"batch_size": 3}, {"concurrency": 2}])
def test_kept_fields_are_those_of_the_input(run, fields) -> None:
    many = "batch_size" in fields
    code = f"""
    def one(record):
        del record["x"]
        record["n"] = -1
        return {{"made": True}}
    def work(got):
        return [one(record) for record in got] if {many} else one(got)
    """
    ran = run(code, RECORDS, keep=("n", "x"), **fields)
    assert sorted(record["n"] for record in ran.records) == list(range(8))
    assert all(record["x"] == 0 for record in ran.records)


def test_concurrent_waits_are_not_a_hang(run) -> None:
    """Two records wait for their back-off at the same time; the shorter wait must not end the longer one's excuse."""
    code = """
    import modalbatch
    tried = set()
    def work(record):
        n = record["n"]
        if n < 2 and n not in tried:
            tried.add(n)
            raise modalbatch.Retry(after=1.6 if n == 0 else 0.2)
        return record
    """
    ran = run(code, RECORDS, concurrency=2, timeout_s=0.8)
    assert ran.counts == (8, 8, 0, 0, 0)
    assert ran.letters == []
