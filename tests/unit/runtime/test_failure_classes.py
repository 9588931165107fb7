"""Whose failure it was (`guarantees.md` section 5): what each class of failure costs, through the real thing."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Pool, module_path, run_job
from modalbatch.job import Compute, Handler, Job, OnError, Retries, Sink, Source
from modalbatch.names import DEAD, PARTS, RECEIPTS
from modalbatch.records import Split
from modalbatch.runtime.handler import Failure
from modalbatch.runtime.supervise import Suspects
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import open_source
from modalbatch.stores.local import LocalStore

N = 12
RECORDS = [{"n": n} for n in range(N)]
#: Counts its calls in a file, across slots and containers.
NOTE = """
def note(*words):
    with open(folder + "/notes", "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")
"""


def notes(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def made(folder: Path, code: str, *, n_files: int = 1, n_records: int = N, **fields) -> Job:
    """A job over files of `n_records` records."""
    (folder / "class_handler.py").write_text(f"folder = {str(folder)!r}\n{NOTE}{code}")
    (folder / "data").mkdir(exist_ok=True)
    for file in range(n_files):
        lines = "".join(json.dumps({"n": n, "file": file}) + "\n" for n in range(n_records))
        (folder / f"data/{file:03}.jsonl").write_text(lines)
    parts = {name: fields.pop(name) for name in ("retries", "compute") if name in fields}
    return Job(
        name="classes",
        handler=Handler(call="class_handler:work", version="1", **fields),
        source=Source(uris=("data/*.jsonl",)),
        sink=Sink(uri="out/"),
        on_error=OnError(max_failed=10**6),
        **{"retries": Retries(initial_delay_s=0.0), "compute": Compute(timeout_s=120)} | parts,
    )


# -- cancelled


CANCELLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from modalbatch.runtime.worker import Worker
from modalbatch.job import Job
import json

class InputCancellation(BaseException):
    "As Modal's: raised in the thread of the input, by a signal."

def cancel(*_):
    raise InputCancellation

signal.signal(signal.SIGUSR1, cancel)
signal.signal(signal.SIGINT, signal.default_int_handler)
task = json.loads(open(sys.argv[2]).read())
worker = Worker(task["job"])
try:
    worker.process(task["split"])
finally:
    print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_a_cancelled_attempt_writes_nothing(tmp_path, number) -> None:
    """F19: whichever way the container is told to stop, in the middle of a call, its slot goes and nothing stands."""
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "called")
    code = """
import os, time
def work(r):
    if r["n"] == 3:
        with open(folder + "/called", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    return r
"""
    job = made(tmp_path, code)
    roots = {"": f"{tmp_path}/"}
    units = tuple(open_source(job, roots).units())
    split = Split(units=units, generation=1, fingerprint="f" * 64, run_id="r", roots=roots)
    (tmp_path / "task").write_text(json.dumps({"job": job.to_json(), "split": split.to_text()}))
    command = [sys.executable, "-c", CANCELLED, str(tmp_path), str(tmp_path / "task")]
    worker = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stderr=-3)
    slot = os.pidfd_open(int((tmp_path / "called").read_text()))
    worker.send_signal(number)
    worker.wait()
    poll = select.poll()
    poll.register(slot, select.POLLIN)
    assert poll.poll(30_000)
    os.close(slot)
    store = LocalStore(str(tmp_path / "out"))
    assert [entry.name for entry in store.list() if entry.name.startswith((PARTS, RECEIPTS, DEAD))] == []
    if number in (signal.SIGINT, signal.SIGUSR1):
        assert list((tmp_path / "out/_modalbatch/tmp").iterdir()) == []
    # Somebody else does it.
    (tmp_path / "called").unlink()
    (tmp_path / "class_handler.py").write_text("def work(r): return r")
    outcome = run_job(job, tmp_path, run_id="again")
    assert (outcome["exit_code"], outcome["counts"]["out"], outcome["counts"]["dead"]) == (0, N, 0)


def test_a_slot_that_is_told_to_end_does_not(run, tmp_path) -> None:
    """A signal to every process of a container is for the worker: no record pays for it."""
    code = """
    import os, signal, time
    def work(r):
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        return r
    """
    ran = run(code, RECORDS)
    assert (ran.records, ran.letters) == (RECORDS, [])


def test_what_a_handler_starts_can_be_ended_as_ever(run) -> None:
    code = """
    import multiprocessing, subprocess, time, signal
    def work(r):
        child = subprocess.Popen(["sleep", "600"])
        child.terminate()
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        process.terminate()
        process.join()
        return {"n": r["n"], "ends": [child.wait(), process.exitcode]}
    """
    ran = run(code, RECORDS[:2])
    assert ran.records == [{"n": n, "ends": [-15, -15]} for n in range(2)]


# -- transient, retry_on, rejected: their policy is in test_policy.py; here, that it holds end to end


@pytest.mark.parametrize(
    ("raised", "n_calls", "cause"),
    [
        ("TimeoutError('x')", 4, "raised"),
        ("ConnectionResetError('x')", 4, "raised"),
        ("modalbatch.Retry('x', after=0)", 4, "raised"),
        ("modalbatch.Reject('x')", 1, "rejected"),
        ("Busy('x')", 4, "raised"),
        ("Named('x')", 4, "raised"),
        ("ValueError('x')", 2, "raised"),
        ("ValueError(len(calls))", 4, "raised"),
    ],
)
@pytest.mark.parametrize("fields", [{}, {"concurrency": 2}, {"batch_size": 1}])
def test_how_often_a_failure_is_tried(run, raised, n_calls, cause, fields) -> None:
    code = f"""
    import modalbatch
    calls = []
    class Busy(Exception):
        status_code = 503
    class Named(Exception): pass
    def work(r):
        if (r[0] if isinstance(r, list) else r)["n"] == 3:
            calls.append(1)
            raise {raised}
        return r
    """
    ran = run(code, RECORDS, retry_on=("Named",), retries=Retries(max_retries=3, initial_delay_s=0.0), **fields)
    [letter] = ran.letters
    assert (letter["cause"], letter["attempts"], letter["record"]) == (cause, n_calls, {"n": 3})
    assert ran.counts == (N, N - 1, 1, 0, 0)


# -- poison


@pytest.mark.parametrize("how", ["os._exit(1)", "os.kill(os.getpid(), 11)", "os.kill(os.getpid(), 9)"])
@pytest.mark.parametrize("size", [1, 4, 7, 16])
def test_poison_costs_so_many_attempts(tmp_path, size, how) -> None:
    """⌈log2 n⌉ + 2 for a batch of n; a `kill -9` may be somebody else's, so it takes two more to believe it."""
    code = f"""
import os
def work(rs):
    note(len(rs), *(r["n"] for r in rs))
    if any(r["n"] == 5 for r in rs): {how}
    return rs
"""
    outcome = run_job(made(tmp_path, code, batch_size=size), tmp_path, run_id="r")
    assert (outcome["counts"]["out"], outcome["counts"]["dead"]) == (N - 1, 1)
    n_deaths = sum("5" in line.split()[1:] for line in notes(tmp_path))
    assert n_deaths <= math.ceil(math.log2(min(size, N))) + 2 + (2 if "9" in how else 0)


# -- start-up


LATE = """
import os
def starts():
    n = len([line for line in open(folder + "/notes") if line.startswith("start")])
    if n > {good}:
        raise ImportError("the weights are gone")
note("start")
starts()
def work(r):
    if r["n"] == 0 and r["file"] >= 20:
        note("dies")
        os._exit(3)
    return r
"""


def test_a_handler_that_does_not_start_any_more_ends_the_run(tmp_path) -> None:
    """After records were done it is not the handler's first start that fails; the run still ends, and says why."""
    job = made(tmp_path, LATE.format(good=1), n_files=40, retries=Retries(max_retries=30, initial_delay_s=0.0))
    outcome = run_job(job, tmp_path, run_id="r")
    assert (outcome["status"], outcome["exit_code"]) == ("stopped", 75)
    message = outcome["error"]["message"]
    assert message.startswith("the handler does not start any more: ImportError: the weights are gone\nTraceback")
    assert outcome["error"]["hint"].endswith("apply again: what is done stays done")
    assert outcome["splits"]["done"] >= 1
    n_starts = sum(line == "start" for line in notes(tmp_path))
    assert n_starts <= 1 + 20 + 2  # those that were out when the run ended may still try
    (tmp_path / "class_handler.py").write_text("def work(r): return r")
    outcome = run_job(job, tmp_path, run_id="again")
    assert (outcome["exit_code"], outcome["live"]["out"]) == (0, 40 * N)


def test_a_start_that_fails_now_and_then_ends_nothing(tmp_path) -> None:
    code = """
import os
note("start")
if sum(line.startswith("start") for line in open(folder + "/notes")) in (2, 4):
    raise ImportError("once")
def work(r):
    if r["n"] == 3 and r["file"] in (1, 3) and not os.path.exists(f"{folder}/died{r['file']}"):
        open(f"{folder}/died{r['file']}", "w").close()
        os._exit(3)
    return r
"""
    outcome = run_job(made(tmp_path, code, n_files=6), tmp_path, run_id="r")
    assert (outcome["exit_code"], outcome["counts"]["out"]) == (0, 6 * N)


# -- memory: the size of a batch that fits is found once a run


MEMORY = """
import os
def work(rs):
    if len(rs) > 3:
        note(len(rs))
        {fails}
    return rs
"""


@pytest.mark.parametrize("n_workers", [1, 2])
def test_the_size_that_fits_is_found_once(tmp_path, n_workers) -> None:
    job = made(tmp_path, MEMORY.format(fails="raise MemoryError"), n_files=24, n_records=64, batch_size=16)
    with module_path(tmp_path):
        pool = Pool(job, n_workers)
        try:
            outcome = run_job(job, tmp_path, run_id="r", n_workers=n_workers, pool=pool)
        finally:
            pool.close()
    assert (outcome["exit_code"], outcome["counts"]["out"], outcome["counts"]["dead"]) == (0, 24 * 64, 0)
    assert len(notes(tmp_path)) <= math.ceil(math.log2(16)) * n_workers
    # It is a hint and no data: the same sink is done for whoever has another size.
    assert run_job(job, tmp_path, run_id="again")["splits"] == {"done": 0, "failed": 0, "kept": 24}


def test_what_other_splits_found_out_is_told_by_the_driver(tmp_path) -> None:
    """The first container finds the size; one that comes later begins with it."""
    job = made(tmp_path, MEMORY.format(fails="raise MemoryError"), n_files=2, n_records=16, batch_size=16)
    roots = {"": f"{tmp_path}/"}
    units = list(open_source(job, roots).units())
    first, second = (
        Split(units=(unit,), generation=1, fingerprint="f" * 64, run_id="r", roots=roots) for unit in units
    )
    ObjectSink(LocalStore(str(tmp_path / "out")))
    with module_path(tmp_path):
        pool = Pool(job, 2)
        try:
            answer = json.loads(pool.workers[0].process(first.to_text()))
            n_before = len(notes(tmp_path))
            told = Split.from_text(second.to_text().replace('"most":0', f'"most":{answer["most"]}'))
            again = json.loads(pool.workers[1].process(told.to_text()))
        finally:
            pool.close()
    assert (answer["status"], answer["most"], again["status"]) == ("done", 2, "done")
    assert (n_before, len(notes(tmp_path))) == (3, 3)


def deaths(n_records: int, size: int, bears: int, large: frozenset[int] = frozenset(), known: int = 0):
    """Follow `supervise` with slots that the kernel kills for their memory: deaths, poison, and the size at the end."""
    suspects, at, n_deaths = Suspects(), 0, 0
    while at < n_records:
        suspects = Suspects.from_json(json.loads(json.dumps(suspects.to_json())))
        most = suspects.most(known)
        cut = next(((low, high, n) for (low, high), n in suspects.cuts.items() if low <= at < high), None)
        n_items = min(size, cut[2] if cut else size, most or size, n_records - at, cut[1] - at if cut else size)
        batch = [n for n in range(at, at + n_items) if n not in suspects.poison]
        if len(batch) > bears or large & set(batch):
            n_deaths += 1
            suspects.blame(batch[0], batch[-1] + 1, "oom", "out of memory")
            continue
        at += n_items
    return n_deaths, suspects, suspects.most(known)


@pytest.mark.parametrize(("size", "bears"), [(64, 5), (64, 1), (64, 63), (2, 1), (100, 33)])
def test_slots_that_die_of_their_memory_die_so_often(size, bears) -> None:
    """F21: not once for each batch, but once for each halving, over a whole split and those that follow."""
    n_deaths, suspects, most = deaths(2000, size, bears)
    assert n_deaths <= math.ceil(math.log2(size))
    assert (suspects.poison, most <= bears) == ({}, True)
    assert deaths(2000, size, bears, known=most)[0] == 0


def test_a_record_that_is_too_large_by_itself_shrinks_nothing() -> None:
    """F21"""
    n_deaths, suspects, most = deaths(1000, 64, 64, frozenset({200}))
    assert {ordinal: failure.cause for ordinal, failure in suspects.poison.items()} == {200: "oom"}
    assert (n_deaths, most) == (math.ceil(math.log2(64)) + 2, 0)
    _, suspects, most = deaths(1000, 64, 20, frozenset({200}))
    assert (list(suspects.poison), most) == ([200], 16)


def test_suspects_come_back_as_they_were() -> None:
    suspects = Suspects(
        cuts={(0, 8): 4},
        deaths={3: 1},
        alone={3},
        poison={5: Failure("oom", {"type": "x"}, 2)},
        ooms={(0, 8): 4, (8, 16): 4},
    )
    assert Suspects.from_json(json.loads(json.dumps(suspects.to_json()))) == suspects
