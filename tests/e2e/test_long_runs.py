"""Runs that outlive their drivers: one hands over to the next, some are killed; nothing hangs on what is retained."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections import Counter

import pytest
from engine_bench import run_folder

from command import live_records, processes, write_records

N_FILES, N_RECORDS = 20, 12
SPEC = """\
version: 1
name: long
handler: handlers:work
source: {uri: data/*.jsonl, split: {files: 1}}
sink: out/
"""
HANDLER = """\
import os
import time


def work(record):
    log = os.open(record["calls"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{record['file']} {record['n']}\\n".encode())
    os.close(log)
    time.sleep(0.1)
    return {"file": record["file"], "n": record["n"]}
"""
EVERYTHING = [(file, n) for file in range(N_FILES) for n in range(N_RECORDS)]


@pytest.fixture
def job(work):
    (work / "long.yaml").write_text(SPEC)
    (work / "handlers.py").write_text(HANDLER)
    for file in range(N_FILES):
        records = [{"file": file, "n": n, "calls": str(work / "calls")} for n in range(N_RECORDS)]
        write_records(work / f"data/{file:02}.jsonl", records)
    return work


def result(work) -> list[tuple[int, int]]:
    return sorted((record["file"], record["n"]) for record in live_records(work / "out"))


def n_drivers(work) -> int:
    return len(list((work / "out/_modalbatch/runs").glob("*/epoch-*")))


def test_a_driver_hands_over_and_no_record_is_done_twice(modalbatch, job):
    modalbatch.environ["MODALBATCH_DRIVER_LIFE"] = "2s"
    ran = modalbatch("apply", "long.yaml", "--json")
    assert ran.code == 0, ran.err
    assert result(job) == EVERYTHING
    assert n_drivers(job) >= 3
    calls = Counter((job / "calls").read_text().splitlines())
    assert set(calls.values()) == {1}
    assert len(calls) == len(EVERYTHING)
    # The last driver tells of the whole run.
    assert ran.json["counts"]["in"] == len(EVERYTHING)
    assert modalbatch("verify", "long.yaml").code == 0
    assert "nothing to do" in modalbatch("apply", "long.yaml").err


def test_a_life_that_is_no_duration_is_refused(modalbatch, job):
    modalbatch.environ["MODALBATCH_DRIVER_LIFE"] = "soon"
    ran = modalbatch("apply", "long.yaml")
    assert ran.code == 2
    assert "MODALBATCH_DRIVER_LIFE is `soon` is not a duration" in ran.err


def drivers(mark: str) -> list[int]:
    """Containers of ours with a driver's index: what only waits for work, or works, has loaded no SQLite."""
    found = []
    for process in processes(mark):
        try:
            is_container = "guest_forkserver" in (process / "cmdline").read_text()
            if is_container and "/_sqlite3." in (process / "maps").read_text():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_thirty_days_with_drivers_that_die_at_random(modalbatch, job):
    """The engine's clock leaps: what it retains of calls and results is gone after seven days, and whoever was silent
    meanwhile counts as gone. Where it gives a driver up, `apply` again goes on, as a schedule would."""
    (mark,) = modalbatch.environ
    modalbatch.environ |= {"MODALBATCH_DRIVER_LIFE": "1500ms", "MODALBATCH_CLOCK": "socket"}
    chance, n_days, n_killed, n_commands = random.Random(30), 0.0, 0, 0
    while True:
        running = modalbatch.start("apply", "long.yaml", "--json")
        n_commands, n_before = n_commands + 1, n_drivers(job)
        while n_drivers(job) == n_before and running.process.poll() is None:
            time.sleep(0.05)
        leap_at = time.monotonic() + 2
        while running.process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() > leap_at and n_days < 30:
                leap(modalbatch.home, 7.5)
                n_days, leap_at = n_days + 7.5, time.monotonic() + 2
            elif chance.random() < 0.15 and (victims := drivers(mark)):
                os.kill(victims[0], signal.SIGKILL)
                n_killed += 1
        ended = running.end()
        if ended.code != 75:
            break
    assert ended.code == 0, ended.err
    assert n_days >= 30, n_commands
    assert n_killed >= 3
    assert result(job) == EVERYTHING
    assert n_drivers(job) >= 6
    assert modalbatch("verify", "long.yaml").code == 0
    before = (job / "calls").read_text()
    assert "nothing to do" in modalbatch("apply", "long.yaml").err
    assert (job / "calls").read_text() == before


def leap(home, days: float) -> None:
    """Put the engine's clock ahead, if it still runs."""
    try:
        with socket.socket(socket.AF_UNIX) as clock:
            clock.connect(str(run_folder(home) / "clock"))
            clock.sendall(f"{days * 86400}\n".encode())
            clock.recv(100)
    except OSError:
        return
