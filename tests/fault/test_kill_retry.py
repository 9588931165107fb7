"""`kill -9` of a machine at each thing that a retry does to its sink; `retry` and `apply` finish and run nothing twice.

MODALBATCH_KILL_POINTS=1 pytest tests/fault/test_kill_retry.py      every point; else every third
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from pathlib import Path

from killing import N_FILES, N_RECORDS, calls, make_job, run_in_process

from modalbatch.driver.verify import verify
from modalbatch.job import Job
from modalbatch.names import parse_receipt_name
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores.local import LocalStore

STEP = int(os.environ.get("MODALBATCH_KILL_POINTS", "3"))


def prepared(folder: Path) -> Job:
    """A job that was done, of whose records one in each file is dead; and its mended version."""
    job = make_job(folder)
    assert run_in_process(job, folder, run_id="applied") == 0
    (folder / "calls").unlink()
    handler = folder / "killed_handler.py"
    handler.write_text(handler.read_text().replace('raise ValueError("three")', "pass"))
    return job


def retried_files(folder: Path) -> set[int]:
    """Files whose dead letters a receipt says to have been retried."""
    sink = ObjectSink(LocalStore(str(folder / "out")))
    names = [entry.name for entry in sink.store.list() if parse_receipt_name(entry.name)]
    receipts = [receipt for name in names if (receipt := sink.read_receipt(name))]
    return {int(Path(unit.uri).stem) for receipt in receipts if receipt.replaces for unit in receipt.units}


def what_is_wrong(folder: Path) -> str | None:
    sink = ObjectSink(LocalStore(str(folder / "out")))
    proof = verify(sink)
    if proof.problems or proof.extras or not proof.is_complete:
        return f"{proof.problems} {proof.extras}, complete: {proof.is_complete}"
    live = dict(sink.live(sink.newest()))
    parts = [part.name for receipt in live.values() for part in receipt.parts]
    records = [json.loads(line) for name in parts for line in sink.store.read(name).splitlines()]
    expected = [(file, n) for file in range(N_FILES) for n in range(N_RECORDS) if n != 5]
    if sorted((record["file"], record["n"]) for record in records) != expected:
        return f"{len(records)} records, expected {len(expected)}"
    return None


def _point(case: tuple[str, int]) -> str | None:
    then, kill_at = case
    folder = Path(tempfile.mkdtemp(prefix="modalbatch-kill-"))
    try:
        job, retry = prepared(folder), {"retry": {"error": None}}
        status = run_in_process(job, folder, run_id="first", kill_at=kill_at, **retry)
        if status != -signal.SIGKILL:
            return None if status == 0 else f"{case}: exit status {status}"
        done, before = retried_files(folder), calls(folder)
        if run_in_process(job, folder, run_id="second", **(retry if then == "retry" else {"keep": True})) != 0:
            return f"{case}: the second run failed"
        if then == "apply" and run_in_process(job, folder, run_id="third", **retry) != 0:
            return f"{case}: the third run failed"
        again = [file for file in done if calls(folder)[file] != before[file]]
        if again:
            return f"{case}: retried records of files {again} ran again"
        if run_in_process(job, folder, run_id="quiet") != 0:
            return f"{case}: the last run failed"
        outcome = json.loads((folder / "quiet.json").read_text())
        if outcome["exit_code"] != 0 or outcome["splits"]["done"] or set(calls(folder).values()) - {1, 2}:
            return f"{case}: {outcome}, {calls(folder)}"
        wrong = what_is_wrong(folder)
        return f"{case}: {wrong}" if wrong else None
    finally:
        shutil.rmtree(folder)


def test_a_retry_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    """promise 5: what a retry has done stays done, whichever verb comes next."""
    job = prepared(tmp_path)
    assert run_in_process(job, tmp_path, run_id="whole", retry={"error": None}) == 0
    assert what_is_wrong(tmp_path) is None
    assert calls(tmp_path) == dict.fromkeys(range(N_FILES), 1)
    n_points = json.loads((tmp_path / "whole.json").read_text())["n_points"]
    assert n_points >= 100
    cases = [(("retry", "apply")[n % 2], n) for n in range(0, n_points, STEP)]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        failures = [failed for failed in pool.imap_unordered(_point, cases) if failed]
    assert not failures, "\n".join(failures)
