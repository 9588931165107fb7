"""A record that ends not its slot but the whole container, again and again: it alone becomes a dead letter."""

from __future__ import annotations

import json

import pytest

from command import live_records, write_records

SPEC = """\
version: 1
name: deadly
handler: handlers:work
source: {uri: data/*.jsonl}
sink: out/
on_error: {max_failed: 1}
"""
HANDLER = """\
import os
import signal
import time


def work(record):
    if record["n"] == 11:
        time.sleep(%s)
        os.kill(os.getppid(), signal.SIGKILL)  # the worker, and with it the container
        time.sleep(60)
    return {"n": record["n"]}
"""


@pytest.mark.parametrize("seconds", [0, 0.5], ids=["at once", "after a while"])
def test_a_record_that_ends_its_containers_is_found_and_set_aside(modalbatch, work, seconds):
    (work / "deadly.yaml").write_text(SPEC)
    (work / "handlers.py").write_text(HANDLER % seconds)
    write_records(work / "data/a.jsonl", [{"n": n} for n in range(20)])
    write_records(work / "data/b.jsonl", [{"n": n} for n in range(100, 105)])
    ran = modalbatch("apply", "deadly.yaml", "--json")
    assert ran.code == 0, ran.err
    expected = [n for n in (*range(20), *range(100, 105)) if n != 11]
    assert sorted(record["n"] for record in live_records(work / "out")) == expected
    [letter] = [json.loads(line) for path in (work / "out/_modalbatch/dead").iterdir() for line in path.open()]
    assert (letter["record"], letter["cause"]) == ({"n": 11}, "crash")
    assert letter["error"]["message"] == "its container ended each of the 3 times that it was processed"
    assert modalbatch("verify", "deadly.yaml").code == 0
    again = modalbatch("apply", "deadly.yaml")
    assert (again.code, "nothing to do" in again.err) == (0, True), again.err
