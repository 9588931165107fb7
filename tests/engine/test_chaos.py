"""Faults on request, against the real client and containers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from engine_bench import Bench

from modalbatch.engines.local import LocalEngine
from modalbatch.engines.local.faults.chaos import parse

_STRESS = int(os.environ.get("MODALBATCH_STRESS", "100"))
_CHAOS = "preempt=2%,crash=1%,hang=0.2%,lost-reply=2%,slow=3%,duplicate=3%,delay=50ms,seed=7"


def _run(home, chaos, entry, *words):
    """An entry point of the storm under faults; what it printed, and the summary at the end."""
    with LocalEngine(home, containers=2, chaos=chaos) as engine:
        found = Bench(home, engine).run(f"storm.py::{entry}", *words)
    return found, engine.summary


def test_a_preemption_restarts_the_input_and_is_no_failure(home):
    chaos = parse("preempt=50%,seed=4")
    found, summary = _run(home, str(chaos), "each", "--n", "4")
    # The function has no retries of its own; a run may end before it is counted.
    names = ["storm/once#1:0", *(f"storm/once#2:{i}" for i in range(4)), "storm/once#3:0"]
    hits = [next(n - 1 for n in range(1, 9) if not chaos.strike(name, n)) for name in names]
    counts = [found["remote"], *map(int, found["map"]), found["spawn"]]
    assert all(1 <= count <= n + 1 for count, n in zip(counts, hits, strict=True))
    assert max(hits) > 2
    assert len(re.findall(r"chaos: preempted ta-\w+ during in-\w+:", found["output"])) == sum(hits)
    assert summary == f"chaos (seed 4): {sum(hits)} preempted"


def test_a_second_crash_is_a_failure(home):
    found, summary = _run(home, "crash=100%,seed=1", "each", "--n", "1")
    assert found["remote"].startswith("RemoteError: container exited with code")
    assert found["spawn"].startswith("RemoteError: container exited with code")
    assert "container exited with code" in found["map"][0]
    assert re.search(r"chaos: crashed ta-\w+ during in-\w+:0", found["output"])
    assert summary == "chaos (seed 1): 6 crashed"


def test_a_hanging_container_runs_into_the_time_limit(home):
    found, summary = _run(home, "hang=100%,seed=1", "each", "--n", "1")
    assert "hit its timeout of 2s" in found["remote"]
    assert "hit its timeout of 2s" in found["spawn"]
    assert "hit its timeout of 2s" in found["map"][0]
    assert re.search(r"chaos: hung ta-\w+ during in-\w+:0", found["output"])
    assert summary == "chaos (seed 1): 3 hung", found["output"]


def test_what_a_lost_reply_was_about_happens_once(home):
    found, summary = _run(home, "lost-reply=60%,slow=100%,delay=1ms,seed=3", "each", "--n", "6")
    assert found["remote"] == found["spawn"] == 1
    assert found["map"] == ["1"] * 6
    lost = set(re.findall(r"chaos: lost the reply to (\w+) about", found["output"]))
    assert lost == {
        "FunctionMap", "FunctionPutInputs", "FunctionGetInputs", "FunctionPutOutputs", "FunctionGetOutputs"
    }  # fmt: skip
    assert found["output"].count("chaos: delayed in-") == 8
    assert re.fullmatch(r"chaos \(seed 3\): \d+ lost replies, 8 delayed", summary)


def test_a_duplicate_runs_in_another_container_at_the_same_time(home):
    found, summary = _run(home, "duplicate=100%,seed=1", "twice")
    assert found["alone"] == 2
    assert found["map"] == [2, 2]
    assert re.search(r"chaos: delivered in-\w+:0 to ta-\w+ too, while ta-\w+ runs it", found["output"])
    assert summary == "chaos (seed 1): 3 delivered twice"


def test_faults_are_no_part_of_an_engine_that_was_not_asked_for_them(home):
    with LocalEngine(home) as engine:
        with LocalEngine(home, chaos="crash=100%") as second:
            assert "the engine that runs already keeps its own faults: none" in second.notes
        assert Bench(home, engine).run("storm.py::each")["map"] == ["1"] * 4
    assert engine.summary == ""


@pytest.mark.parametrize("asks", ["option", "variable"])
def test_the_command_says_at_its_end_what_was_hit(tmp_path, home, asks):
    words = [str(Path(sys.executable).with_name("modalbatch")), "local"]
    environ = os.environ | {"MODALBATCH_HOME": str(home)}
    if asks == "option":
        words += ["--chaos", "slow=50%,seed=5"]
    else:
        environ["MODALBATCH_CHAOS"] = "slow=50%,seed=5"
    done = subprocess.run([*words, "--", "true"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "chaos (seed 5): nothing was hit\n")


def test_a_storm_loses_nothing_and_doubles_nothing(home, capsys):
    found, summary = _run(home, _CHAOS, "main", "--n", str(_STRESS))
    if _STRESS > 1000:
        with capsys.disabled():
            print(f"\n2 x {_STRESS} inputs in {found['seconds']:.1f} s; {summary}")
    for order in ("ordered", "unordered"):
        assert found[order] == {"n": _STRESS, "wrong": []}
    assert re.match(r"chaos \(seed 7\): \d+ preempted, \d+ crashed, ", summary)
