"""`kill -9` of a machine at each thing that a run does to its sink; `apply` again finishes and runs nothing twice.

MODALBATCH_KILL_POINTS=1 pytest tests/fault/test_kill_points.py      every point on S3, too
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from functools import partial
from pathlib import Path

import boto3  # noqa: F401  # once, not in each of the forks
from killing import N_RECORDS, calls, done_files, make_job, run_in_process, sink_of, what_is_wrong

from modalbatch.job import Sink
from servers import s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]

#: Of the requests to S3, each so many-th: they take longer.
S3_STEP = int(os.environ.get("MODALBATCH_KILL_POINTS", "4"))


def _point(sink: Sink | None, kill_at: int) -> str | None:
    folder = Path(tempfile.mkdtemp(prefix="modalbatch-kill-"))
    try:
        # Each point has a prefix of its own.
        job = make_job(folder, sink and Sink(uri=f"{sink.uri}{kill_at}/", endpoint_url=sink.endpoint_url))
        status = run_in_process(job, folder, run_id="first", kill_at=kill_at)
        if status != -signal.SIGKILL:
            return None if status == 0 else f"point {kill_at}: exit status {status}"
        done, before = done_files(sink_of(job, folder)), calls(folder)
        if run_in_process(job, folder, run_id="second") != 0:
            return f"point {kill_at}: the second run failed"
        outcome = json.loads((folder / "second.json").read_text())
        if outcome["exit_code"] != 0:
            return f"point {kill_at}: {outcome}"
        again = [file for file in done if calls(folder)[file] != before[file]]
        if again:
            return f"point {kill_at}: finished splits of files {again} ran again"
        wrong = what_is_wrong(sink_of(job, folder))
        return f"point {kill_at}: {wrong}" if wrong else None
    finally:
        shutil.rmtree(folder)


def _at_every_point(folder: Path, sink: Sink | None, step: int) -> int:
    """How many points there are, once each `step`-th of them was tried."""
    whole = sink and Sink(uri=f"{sink.uri}whole/", endpoint_url=sink.endpoint_url)
    job = make_job(folder, whole)
    assert run_in_process(job, folder, run_id="whole") == 0
    assert what_is_wrong(sink_of(job, folder)) is None
    # One call each; a deterministic failure is tried once more only if there are retries.
    assert set(calls(folder).values()) == {N_RECORDS}
    n_points = json.loads((folder / "whole.json").read_text())["n_points"]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        todo = pool.imap_unordered(partial(_point, sink), range(0, n_points, step))
        failures = [failed for failed in todo if failed]
    assert not failures, "\n".join(failures)
    return n_points


def test_a_run_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    """F01-F11 L, F16 L, F70 L: and `verify` after each."""
    assert _at_every_point(tmp_path, None, 1) >= 200


def test_a_run_killed_at_any_request_is_finished_by_the_next(tmp_path: Path, s3_bucket) -> None:
    """F01-F05 S, F07-F10 S, F16 S, F27 S, F70 S: before each request, and between its effect and its reply."""
    sink = Sink(uri=s3_bucket.uri, endpoint_url=s3_bucket.endpoint_url)
    assert _at_every_point(tmp_path, sink, S3_STEP) >= 100


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    """F10 L"""
    job = make_job(tmp_path)
    assert run_in_process(job, tmp_path, run_id="first") == 0
    before = calls(tmp_path)
    assert run_in_process(job, tmp_path, run_id="second") == 0
    assert calls(tmp_path) == before
    assert what_is_wrong(sink_of(job, tmp_path)) is None
