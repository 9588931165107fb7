"""Modal's limits, each met by code that does not know of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from engine_bench import Bench

from modalbatch.engines.local import LocalEngine

_USE = """
import os, modal, limited, timed
from limited import outcome
use = lambda name: modal.Function.from_name("limited", name)
"""
_DAY_S = 86_400


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An engine whose clock can be put ahead, with an app that meets limits."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODALBATCH_CLOCK", "socket")
        with LocalEngine(home, containers=2) as engine:
            bench = Bench(home, engine)
            bench.modal("deploy", "limited.py")
            yield bench


def _said(output: str) -> dict[str, str]:
    """What a script has printed as `NAME text`."""
    pairs = (line.partition(" ") for line in output.splitlines())
    return {name: text for name, _, text in pairs if name.isupper()}


def test_queues_rates_and_sizes(clocked):
    """2,000 queued and 25,000 outstanding, 200 and 1,500 a second, 2 MiB and 8 KiB inline."""
    said = _said(
        clocked.python(
            _USE + "hold = use('hold')\n"
            "hold.spawn('block')\n"
            "print('BEGAN', limited.events.get())\n"
            "crowd = limited.submit(hold, 2000)\n"
            "print('FULL', outcome(lambda: hold.remote('more')))\n"
            "print('SPAWNED', hold.spawn('block').object_id[:3])\n"
            "limited.cancel(crowd)\n"
            "os.environ['MODAL_MAX_THROTTLE_WAIT'] = '0'\n"
            "print('FAST', outcome(lambda: hold.remote('more')))\n"
            "del os.environ['MODAL_MAX_THROTTLE_WAIT']\n"
            "timed.advance(4)\n"
            "for name in ('block', 'block', 'later'): limited.events.put(1, partition=name)\n"
            "print('LATER', hold.remote('later'))\n"
            "print('LARGE', outcome(lambda: limited.submit(use('size'), 1, 8193, is_sync=False)))\n"
            "print('BLOB', use('size').spawn(b'x' * 100_000).get(), use('size').remote(b'x' * 3_000_000))\n"
            "limited.events.clear(all=True)\n"
        )
    )
    assert said["BEGAN"] == "block began"
    full = "function `hold` has too many inputs that wait for a container: more than 2000"
    assert said["FULL"].startswith(f"ResourceExhaustedError: {full}")
    assert said["SPAWNED"] == "fc-"
    assert said["FAST"].startswith("ResourceExhaustedError: function `hold` takes 200 inputs per second")
    assert said["LATER"] == "later"
    assert "more than 8192 must be uploaded as a blob" in said["LARGE"]
    assert said["BLOB"] == "100000 3000000"


def test_a_killed_caller_is_noticed_and_one_that_waits_is_not(clocked):
    source = "print('RESULT', use('stay').remote({!r}))"
    lonely, alive = (clocked.start(sys.executable, "-c", _USE + source.format(name)) for name in ("lonely", "alive"))
    clocked.python(_USE + "assert {limited.events.get(), limited.events.get()} == {'lonely began', 'alive began'}")
    lonely.kill()
    lonely.communicate()
    clocked.advance(121)
    said = _said(
        clocked.python(_USE + "print('TOLD', limited.events.get())\nlimited.events.put(1, partition='alive')\n")
    )
    assert said["TOLD"] == "lonely: InputCancellation"
    assert "RESULT alive" in alive.communicate()[0]


def test_results_expire_after_seven_days_and_crashes_of_a_deployed_app_are_tried_again(clocked):
    said = _said(
        clocked.python(
            _USE + "again = lambda call: outcome(modal.FunctionCall.from_id(call.object_id).get)\n"
            "call = use('double').spawn(4)\n"
            "print('FIRST', call.get())\n"
            f"timed.advance(6.9 * {_DAY_S})\n"
            "print('KEPT', again(call))\n"
            f"timed.advance(0.2 * {_DAY_S})\n"
            "print('EXPIRED', outcome(lambda: modal.FunctionCall.from_id(call.object_id).get(timeout=0)))\n"
            "print('GONE', again(call))\n"
            "print('CRASHED', use('crash').remote('deployed', 2))\n"
            "print('LATE', modal.Cls.from_name('limited', 'Late')().tries.remote())\n"
        )
    )
    assert said["FIRST"] == said["KEPT"] == "8"
    assert said["EXPIRED"].startswith("OutputExpiredError")
    assert said["GONE"].startswith("NotFoundError: the result of fc-")
    assert (said["CRASHED"], said["LATE"]) == ("3", "3")
    log = clocked.modal("app", "logs", "limited")
    assert "modalbatch: containers of `crash` crash again and again: next try in 1 s" in log
    assert "modalbatch: containers of `Late.*` fail to start again and again: next try in 1 s" in log


def test_crashes_of_an_ephemeral_app_end_what_waits(clocked):
    found = clocked.run("limited.py::poison")
    assert found["n"] == 40
    assert set(found["told"]) <= {
        "RemoteError: container exited with code 7 while it ran the input",
        "RemoteError: container exited with code 7 again and again",
    }
    assert found["attempts"] < 20


def test_what_no_machine_of_modals_has_is_refused(clocked):
    """GPU names and counts, retries, time limits."""
    source = (
        "import modal\n"
        "gpus = ['Z9000', 'A10G:5', ['H100', 'B200:9'], 'h100!:8']\n"
        "for number, options in enumerate([*({'gpu': gpu} for gpu in gpus), {'retries': 50}, {'timeout': 86401}]):\n"
        "    app = modal.App('limit')\n"
        "    app.function(serialized=True, name='f', **options)(lambda: None)\n"
        "    try:\n        with modal.enable_output(), app.run(): print(f'CASE{chr(65 + number)} ok')\n"
        "    except Exception as error: print(f'CASE{chr(65 + number)}', str(error).splitlines()[0])\n"
    )
    output = clocked.python(source)
    said = _said(output)
    assert said["CASEA"] == "gpu of `f`: Modal has no `Z9000`"
    assert said["CASEB"] == "gpu of `f`: a container has 1 to 4 of `A10`, not 5"
    assert said["CASEC"] == "gpu of `f`: a container has 1 to 8 of `B200`, not 9"
    assert said["CASED"] == said["CASEE"] == "ok"
    assert "`f` has 50 retries: Modal may accept no more than 10" in output
    assert said["CASEF"] == "timeout of `f` must be between 1 and 86400 seconds"
