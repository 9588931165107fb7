"""`kill -9` of a machine at each thing that a retry does to its sink; `retry` and `apply` finish and run nothing twice.

MODALBATCH_KILL_POINTS=1 pytest tests/fault/test_kill_retry.py      every point; 4 every fourth
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from killing import N_FILES, N_RECORDS, calls, make_job, run_in_process
from modalbatch.driver.verify import verify
from modalbatch.job import Job
from modalbatch.records import parse_receipt_name
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores.local import LocalStore

STEP = int(os.environ.get("MODALBATCH_KILL_POINTS", "1"))


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


def _point(case: tuple[Path, str, int]) -> str | None:
    template, then, kill_at = case
    folder = Path(tempfile.mkdtemp(prefix="modalbatch-kill-"))
    try:
        shutil.copytree(template, folder, dirs_exist_ok=True)
        handler = folder / "killed_handler.py"
        handler.write_text(handler.read_text().replace(str(template), str(folder)))
        job = version_of(make_job_of(template), 1)
        retry = {"retry": {"error": None}}
        status = run_in_process(job, folder, run_id="first", kill_at=kill_at, **retry)
        if status != -signal.SIGKILL:
            return None if status == 0 else f"point {kill_at}: exit status {status}"
        done, before = retried_files(folder), calls(folder)
        options = retry if then == "retry" else {"keep": True}
        if run_in_process(job, folder, run_id="second", **options) != 0:
            return f"point {kill_at}: the second run failed"
        again = [file for file in done if calls(folder)[file] != before[file]]
        if again:
            return f"point {kill_at}: retried records of files {again} ran again"
        if then != "retry" and run_in_process(job, folder, run_id="third", **retry) != 0:
            return f"point {kill_at}: the third run failed"
        if any(n > (1 if file in done else 2) for file, n in calls(folder).items()):
            return f"point {kill_at}: {calls(folder)} calls"
        quiet = run_in_process(job, folder, run_id="quiet")
        outcome = json.loads((folder / "quiet.json").read_text())
        if quiet != 0 or outcome["exit_code"] != 0 or outcome["splits"]["done"]:
            return f"point {kill_at}: {outcome}"
        wrong = what_is_wrong(folder)
        return f"point {kill_at}: {wrong}" if wrong else None
    finally:
        shutil.rmtree(folder)
