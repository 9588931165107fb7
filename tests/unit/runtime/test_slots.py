"""What happens to records when a slot dies, hangs or never starts; and what a dead letter says."""

from __future__ import annotations

import base64
import math
import os
import signal
import threading
from pathlib import Path

import pytest

from modalbatch.job import OnError, Retries

N = 40
RECORDS = [{"n": n} for n in range(N)]
#: Notes each call in a file, so that attempts can be counted across slots that died.
COUNT = """
def note(*ns):
    with open(folder + "/calls", "a") as file:
        file.write(" ".join(map(str, ns)) + "\\n")
"""
DEATHS = {
    "end": ("os._exit(0)", "crash", "the slot ended with exit code 0"),
    "exit": ("os._exit(7)", "crash", "the slot ended with exit code 7"),
    "crash": ("os.kill(os.getpid(), 11)", "crash", "the slot ended with signal SIGSEGV"),
    "abort": ("os.abort()", "crash", "the slot ended with signal SIGABRT"),
}


def calls(path: Path) -> list[list[int]]:
    return [[int(n) for n in line.split()] for line in (path / "calls").read_text().splitlines()]


@pytest.mark.parametrize("death", list(DEATHS))
def test_a_record_that_kills_its_slot_is_the_only_dead_one(run, tmp_path, death) -> None:
    """F24 L"""
    how, cause, message = DEATHS[death]
    ran = run(f"{COUNT}\ndef work(r):\n  note(r['n'])\n  if r['n'] == 17: {how}\n  return r", RECORDS)
    assert sorted(record["n"] for record in ran.records) == [n for n in range(N) if n != 17]
    [letter] = ran.letters
    assert (letter["record"], letter["cause"], letter["error"]["message"]) == ({"n": 17}, cause, message)
    assert letter["attempts"] == 2
    assert sum(17 in call for call in calls(tmp_path)) == 2
    assert ran.counts == (N, N - 1, 1, 0, 0)


@pytest.mark.parametrize("fields", [{}, {"batch_size": 4}])
def test_a_call_that_hangs_is_ended_at_its_timeout(run, fields) -> None:
    """F22 L"""
    code = """
    import time
    def work(rs):
        if any(r["n"] == 5 for r in (rs if isinstance(rs, list) else [rs])):
            time.sleep(600)
        return rs
    """
    ran = run(code, RECORDS[:12], timeout_s=0.4, **fields)
    assert sorted(record["n"] for record in ran.records) == [n for n in range(12) if n != 5]
    [letter] = ran.letters
    assert (letter["cause"], letter["error"]["message"]) == ("timeout", "the call did not return within 0.4 s")


def test_a_call_that_hangs_and_will_not_be_told_to_end(run) -> None:
    """F23 L"""
    code = """
    import signal, time
    def work(r):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
        if r["n"] == 2: time.sleep(600)
        return r
    """
    ran = run(code, RECORDS[:5], timeout_s=0.4)
    assert sorted(record["n"] for record in ran.records) == [0, 1, 3, 4]
    assert [letter["cause"] for letter in ran.letters] == ["timeout"]


@pytest.mark.parametrize("end", ["os.abort()", "time.sleep(600)"])
def test_a_slot_that_dies_or_hangs_once_all_is_committed(run, end) -> None:
    """F25 L, F26 L: the receipt has decided."""
    code = f"""
    import time
    class Work:
        def __call__(self, r): return r
        def close(self): {end}
    """
    ran = run(code, RECORDS[:5], call="Work", timeout_s=0.5)
    assert ran.records == RECORDS[:5]
    assert (ran.outcome["exit_code"], ran.letters) == (0, [])


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_a_batch_is_bisected_to_its_poison(run, tmp_path, size) -> None:
    code = f"""{COUNT}
def work(rs):
    note(*(r["n"] for r in rs))
    if any(r["n"] == 13 for r in rs): os._exit(3)
    return rs
"""
    ran = run(code, RECORDS[:24], batch_size=size)
    assert sorted(record["n"] for record in ran.records) == [n for n in range(24) if n != 13]
    assert [letter["record"]["n"] for letter in ran.letters] == [13]
    n_deaths = sum(13 in call for call in calls(tmp_path))
    # Each death is an attempt that another one had to follow: all but the first are extra, and so is the last of all.
    assert n_deaths <= math.ceil(math.log2(size)) + 2


@pytest.mark.parametrize("fields", [{"concurrency": 4}, {"concurrency": 3, "batch_size": 2}])
def test_poison_among_calls_at_the_same_time(run, fields) -> None:
    code = """
    def work(rs):
        if any(r["n"] == 9 for r in (rs if isinstance(rs, list) else [rs])): os._exit(3)
        return rs
    """
    ran = run(code, RECORDS[:20], **fields)
    assert [record["n"] for record in ran.records] == [n for n in range(20) if n != 9]
    assert [letter["record"]["n"] for letter in ran.letters] == [9]


def test_a_slot_killed_from_outside_loses_nothing(run, tmp_path) -> None:
    code = """
    import time
    def work(r):
        with open(folder + "/pid", "w") as file: file.write(str(os.getpid()))
        time.sleep(0.02)
        return r
    """
    n_killed = []

    def kill() -> None:
        seen: set[int] = set()
        while len(n_killed) < 3 and not done.is_set():
            try:
                pid = int((tmp_path / "pid").read_text())
            except (OSError, ValueError):
                continue
            if pid not in seen:
                seen.add(pid)
                os.kill(pid, signal.SIGKILL)
                n_killed.append(pid)

    done = threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    ran = run(code, RECORDS)
    done.set()
    killer.join()
    assert len(n_killed) == 3
    assert ran.records == RECORDS
    assert ran.letters == []


def test_a_slot_that_dies_after_its_last_record_ends_the_attempt(run) -> None:
    code = """
    import threading, time
    def work(r):
        if r["n"] == 2:
            thread = threading.Thread(target=lambda: (time.sleep(0.3), os._exit(9)))
            thread.start()
            time.sleep(0.8)
        return r
    """
    ran = run(code, RECORDS[:3])
    assert [letter["record"]["n"] for letter in ran.letters] == [2]


@pytest.mark.parametrize(
    ("code", "call", "message"),
    [
        ("import a_module_that_is_not_there", "work", "No module named 'a_module_that_is_not_there'"),
        ("class Work:\n  def __init__(self): raise RuntimeError('no model')", "Work", "RuntimeError: no model"),
        ("raise SystemExit(4)", "work", "SystemExit: 4"),
        ("import os\nos._exit(4)", "work", "the slot ended with exit code 4 while it started"),
    ],
)
def test_a_handler_that_does_not_start_stops_the_run_with_its_traceback(run, code, call, message) -> None:
    ran = run(code, RECORDS, call=call)
    error = ran.outcome["error"]
    assert ran.outcome["status"] == "stopped"
    assert error["message"].startswith("the handler does not start: ")
    assert message in error["message"]
    if "os._exit" not in code:
        assert "Traceback (most recent call last)" in error["message"]
    assert ran.records == []


def test_dropped_records_are_counted(run) -> None:
    ran = run("def work(r):\n  if r['n'] < 3: raise ValueError\n  return r", RECORDS, on_error=OnError(record="drop"))
    assert ran.counts == (N, N - 3, 0, 0, 3)
    assert ran.letters == []
    assert ran.outcome["exit_code"] == 0


def test_fail_stops_at_the_first_failed_record(run) -> None:
    ran = run(
        "def work(r):\n  if r['n'] == 3: raise ValueError('x')\n  return r", RECORDS, on_error=OnError(record="fail")
    )
    assert (ran.outcome["status"], ran.outcome["exit_code"]) == ("stopped", 5)
    assert ran.outcome["error"]["message"] == "data/x.jsonl: record 3: ValueError: x"
    assert ran.records == []


@pytest.mark.parametrize(
    ("on_error", "code"),
    [
        (OnError(), 1),
        (OnError(max_failed=4), 0),
        (OnError(max_failed=3), 5),
        (OnError(max_failed_share=0.1), 0),
        (OnError(max_failed_share=0.09), 5),
    ],
)
def test_max_failed(run, on_error, code) -> None:
    ran = run("def work(r):\n  if r['n'] < 4: raise ValueError('x')\n  return r", RECORDS, on_error=on_error)
    assert ran.outcome["exit_code"] == code
    assert bool(ran.records) == (code != 5)


def test_nothing_succeeded(run) -> None:
    ran = run("def work(r): raise ValueError('x')", RECORDS)
    assert ran.outcome["exit_code"] == 1
    assert ran.outcome["error"]["message"] == "nothing succeeded: all 40 records failed"


@pytest.mark.parametrize("fields", [{}, {"concurrency": 2}, {"batch_size": 1}])
def test_a_dead_letter_holds_the_record_as_it_was_read(run, fields) -> None:
    code = """
    def work(r):
        r = r[0] if isinstance(r, list) else r
        seen = dict(r)
        r.clear()
        r["changed"] = True
        raise ValueError(str(seen))
    """
    ran = run(code, [{"n": 1, "deep": {"a": [1]}}], retries=Retries(max_retries=3, initial_delay_s=0.0), **fields)
    [letter] = ran.letters
    assert letter["record"] == {"n": 1, "deep": {"a": [1]}}
    # Each try saw the original, too.
    assert letter["error"]["message"] == "{'n': 1, 'deep': {'a': [1]}}"
    assert letter["attempts"] == 2


def test_the_fields_of_a_dead_letter(run) -> None:
    code = "def work(r):\n  if r['n'] == 1: raise KeyError('k')\n  return r"
    ran = run(code, b'{"n": 0}\n\n{"n": 1}\n')
    [letter] = ran.letters
    assert letter["uri"] == "data/x.jsonl"
    assert letter["position"] == {"offset": 10, "ordinal": 2}
    assert (letter["cause"], letter["attempts"], letter["record"]) == ("raised", 2, {"n": 1})
    assert letter["error"]["type"] == "KeyError"
    assert letter["error"]["message"] == "'k'"
    assert "modalbatch" not in letter["error"]["traceback"]
    assert letter["error"]["traceback"].startswith("Traceback (most recent call last):\n")
    assert len(letter["id"].split("-")) == 2


def test_long_messages_and_tracebacks_are_capped(run) -> None:
    code = "def work(r):\n  raise ValueError('x' * 100_000)"
    [letter] = run(code, [{}]).letters
    assert len(letter["error"]["message"]) == 2000
    assert len(letter["error"]["traceback"]) <= 8010


@pytest.mark.parametrize("fields", [{}, {"concurrency": 2}, {"batch_size": 3}])
def test_lines_that_are_no_records(run, fields) -> None:
    data = b'\xef\xbb\xbf{"n": 0}\r\n\r\n   \n{"n": 1}\n[1]\n{"n": \xff}\nnot json\n{"n": NaN}\n{"n": 2}'
    ran = run("def work(r): return r", data, **fields)
    assert [record["n"] for record in ran.records] == [0, 1, 2]
    assert [letter["cause"] for letter in ran.letters] == ["undecodable"] * 4
    raw = [base64.b64decode(letter["raw_base64"]) for letter in ran.letters]
    assert [line.strip() for line in raw] == [b"[1]", b'{"n": \xff}', b"not json", b'{"n": NaN}']
    assert ran.outcome["counts"]["blank"] == 2
    assert ran.counts == (7, 3, 4, 0, 0)


def test_a_call_that_waits_for_another_try_does_not_hang(run) -> None:
    code = """
    import modalbatch
    seen = set()
    def work(r):
        if r["n"] not in seen:
            seen.add(r["n"])
            raise modalbatch.Retry(after=0.6)
        return r
    """
    ran = run(code, RECORDS[:4], timeout_s=0.3, concurrency=4)
    assert ran.records == RECORDS[:4]
    assert ran.letters == []


def test_a_slot_that_dies_of_nothing_in_the_split_ends_the_attempt(run) -> None:
    code = """
    import modalbatch.runtime.split_run as split_run
    checkpoint = split_run.SplitRun.checkpoint
    def die(self, ordinal):
        checkpoint(self, ordinal)
        if ordinal == 3: os._exit(9)
    split_run.SplitRun.checkpoint = die
    def work(r): return r
    """
    ran = run(code, RECORDS[:3], retries=Retries(max_retries=0))
    assert ran.outcome["exit_code"] == 75
    assert ran.outcome["error"]["message"].endswith("the slot ended with exit code 9")


def test_success_goes_when_a_limit_of_the_spec_makes_it_none(run, tmp_path) -> None:
    code = "def work(r):\n  if r['n'] == 3: raise ValueError('x')\n  return r"
    for on_error, exit_code, is_marked in ((OnError(max_failed=1), 0, True), (OnError(), 1, False)):
        ran = run(code, RECORDS, on_error=on_error, version="1")
        assert ran.outcome["exit_code"] == exit_code
        assert (tmp_path / "out/_SUCCESS").exists() is is_marked
