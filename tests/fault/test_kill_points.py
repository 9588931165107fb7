"""`kill -9` of a machine at each thing that a run does to its sink; `apply` again finishes and runs nothing twice.

MODALBATCH_KILL_POINTS=1 pytest tests/fault/test_kill_points.py      every point; 2 every other
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from pathlib import Path

from killing import N_RECORDS, calls, done_files, make_job, run_in_process, what_is_wrong

STEP = int(os.environ.get("MODALBATCH_KILL_POINTS", "1"))


def _point(kill_at: int) -> str | None:
    folder = Path(tempfile.mkdtemp(prefix="modalbatch-kill-"))
    try:
        job = make_job(folder)
        status = run_in_process(job, folder, run_id="first", kill_at=kill_at)
        if status != -signal.SIGKILL:
            return None if status == 0 else f"point {kill_at}: exit status {status}"
        done, before = done_files(folder), calls(folder)
        if run_in_process(job, folder, run_id="second") != 0:
            return f"point {kill_at}: the second run failed"
        outcome = json.loads((folder / "second.json").read_text())
        if outcome["exit_code"] != 0:
            return f"point {kill_at}: {outcome}"
        again = [file for file in done if calls(folder)[file] != before[file]]
        if again:
            return f"point {kill_at}: finished splits of files {again} ran again"
        wrong = what_is_wrong(folder)
        return f"point {kill_at}: {wrong}" if wrong else None
    finally:
        shutil.rmtree(folder)


def test_a_run_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert run_in_process(job, tmp_path, run_id="whole") == 0
    assert what_is_wrong(tmp_path) is None
    # One call each; a deterministic failure is tried once more only if there are retries.
    assert set(calls(tmp_path).values()) == {N_RECORDS}
    n_points = json.loads((tmp_path / "whole.json").read_text())["n_points"]
    assert n_points >= 200
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        failures = [failed for failed in pool.imap_unordered(_point, range(0, n_points, STEP)) if failed]
    assert not failures, "\n".join(failures)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert run_in_process(job, tmp_path, run_id="first") == 0
    before = calls(tmp_path)
    assert run_in_process(job, tmp_path, run_id="second") == 0
    assert calls(tmp_path) == before
    assert what_is_wrong(tmp_path) is None
