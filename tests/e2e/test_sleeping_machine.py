"""A machine goes to sleep in the middle of a run, another one finishes the job, and the first wakes up."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import replace

from command import live_records, remaining
from e2e.test_kills import N_FILES, N_RECORDS, Family, Folder, Killed


def _tell(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, number)


def test_who_wakes_up_changes_nothing(modalbatch, work):
    """F14 L"""
    sink, (mark,) = Folder(work), modalbatch.environ
    job = Killed(work, sink)
    run = modalbatch.start("apply", "killed.yaml", "--json")
    while not (len(sink.receipts()) >= 3 and (asleep := Family(run.process.pid).pids["everything"])):
        assert run.process.poll() is None, run.end()
    try:
        _tell(asleep, signal.SIGSTOP)
        done = job.done()
        job.slow_path.unlink()
        other = replace(modalbatch, home=work / "elsewhere")("apply", "killed.yaml", "--json")
        assert other.code == 0, other.err
        assert len(done) <= other.json["splits"]["kept"] < N_FILES
        before = sink.read("_SUCCESS")
    finally:
        _tell(asleep, signal.SIGCONT)
    first = run.end()
    assert first.code == 0, first.err
    assert sink.read("_SUCCESS") == before
    assert modalbatch("verify", "killed.yaml").code == 0
    assert modalbatch("apply", "killed.yaml", "--json").json["status"] == "nothing_to_do"
    assert remaining(mark) == []
    found = sorted((item["file"], item["n"]) for item in live_records(sink.path))
    assert found == [(file, n) for file in range(N_FILES) for n in range(N_RECORDS)]
