"""What becomes of a run when its command is interrupted, killed, or loses its engine; and of two commands at once."""

from __future__ import annotations

import os
import signal

import pytest

from command import live_records, processes

AGAIN = "what is done stays done; `modalbatch apply` again continues"


def continues(modalbatch, gate, n_records=30):
    """Whether `apply` again ends the job, with each record once."""
    gate.touch()
    again = modalbatch("apply", "gated.yaml", "--json")
    assert again.code == 0, again.err
    assert sorted(item["n"] for item in live_records(gate.parent / "out")) == list(range(n_records))
    assert (gate.parent / "out" / "_SUCCESS").exists()
    return again.json["splits"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_what_is_running_finish(modalbatch, gate, number):
    """F12 L"""
    run = modalbatch.start("apply", "gated.yaml", "--verbose", "--json")
    run.wait_for('"text": "working on')
    run.process.send_signal(number)
    run.wait_for("stopping: what is running may finish for 10 s; Ctrl-C again ends it now")
    run.wait_for('"phase": "stopping"')
    gate.touch()
    done = run.end()
    assert (done.code, done.json["status"]) == (130, "stopped")
    assert not (gate.parent / "out" / "_SUCCESS").exists()
    splits = continues(modalbatch, gate)
    assert splits["kept"] > 0
    assert splits["kept"] + splits["done"] == 30


def test_a_second_interrupt_ends_the_run_at_once(modalbatch, gate):
    """F13 L"""
    run = modalbatch.start("apply", "gated.yaml", "--verbose")
    run.wait_for("| working on")
    run.process.send_signal(signal.SIGINT)
    run.wait_for("stopping:")
    run.process.send_signal(signal.SIGINT)
    done = run.end()
    assert done.code == 130
    assert done.err.splitlines()[-1] == f"interrupted: {AGAIN}"
    continues(modalbatch, gate)


def test_a_killed_command_takes_everything_with_it(modalbatch, gate):
    run = modalbatch.start("apply", "gated.yaml", "--verbose")
    run.wait_for("| working on")
    run.process.kill()
    assert run.end().code == -signal.SIGKILL
    continues(modalbatch, gate)


def test_an_engine_that_dies_is_one_readable_line(modalbatch, gate):
    run = modalbatch.start("apply", "gated.yaml", "--verbose")
    run.wait_for("| working on")
    (mark,) = modalbatch.environ
    # What the engine is about to start looks like itself for a moment: it is the oldest.
    engines = [f for f in processes(mark) if b"modalbatch.engines.local.main" in (f / "cmdline").read_bytes()]
    os.kill(min(int(folder.name) for folder in engines), signal.SIGKILL)
    done = run.end()
    assert done.code == 75
    *_, error, hint = done.err.splitlines()
    assert error.startswith("error: the connection to the run is lost: ")
    assert hint == "hint: apply again: what is done stays done"
    continues(modalbatch, gate)


def test_a_second_command_follows_the_run(modalbatch, gate):
    """F15 L"""
    first = modalbatch.start("apply", "gated.yaml", "--verbose")
    first.wait_for("| working on")
    second = modalbatch.start("apply", "gated.yaml")
    said = second.wait_for(": following it")
    gate.touch()
    one, other = first.end(), second.end()
    assert (one.code, other.code) == (0, 0)
    assert said.startswith("run ")
    assert one.err.splitlines()[-3:] == other.err.splitlines()[-3:]
    assert len(list((gate.parent / "out" / "_modalbatch").glob("manifest-??????.json"))) == 1


def test_another_version_of_the_job_is_busy(modalbatch, gate):
    first = modalbatch.start("apply", "gated.yaml", "--verbose")
    first.wait_for("| working on")
    handler = gate.parent / "gates.py"
    handler.write_text(handler.read_text().replace('"n": record["n"]', '"n": record["n"] + 0'))
    busy = modalbatch("apply", "gated.yaml")
    assert busy.code == 75
    error, hint = busy.err.splitlines()[-2:]
    assert error.startswith("error: run ")
    assert error.endswith(" is active with another version of this job")
    assert "or start beside it with --force" in hint
    gate.touch()
    assert first.end().code == 0


def test_status_logs_and_cancel(modalbatch, gate):
    run = modalbatch.start("apply", "gated.yaml", "--verbose", "--json")
    run.wait_for('"text": "working on')
    status = modalbatch("status", "--json")
    assert (status.code, status.json["state"]) == (0, "running")
    run_id = status.json["run_id"]
    assert modalbatch("status").out.splitlines()[0] == f"run {run_id} of gated: running"
    cancel = modalbatch("cancel", run_id)
    assert (cancel.code, cancel.err) == (0, f"run {run_id} is asked to stop; what is running may finish\n")
    run.wait_for('"phase": "stopping"')
    gate.touch()
    assert run.end().code == 130
    assert modalbatch("status", run_id, "--json").json["state"] == "stopped"
    assert modalbatch("cancel").err == f"run {run_id} has ended already: stopped\n"
    assert "working on 0\n" in modalbatch("logs").out
