"""What happens after hours and days, under a clock that is put ahead."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from engine_bench import Bench

from modalbatch.engines.local import LocalEngine


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An engine whose clock can be put ahead, with an app that depends on it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODALBATCH_CLOCK", "socket")
        with LocalEngine(home) as engine:
            bench = Bench(home, engine)
            bench.modal("deploy", "timed.py")
            yield bench


def _seen(bench: Bench, n: int) -> list[str]:
    """The next `n` scheduled calls, as they have told the queue; waits for them."""
    source = f"import timed; print('SEEN', *sorted(timed.seen.get() for _ in range({n})), timed.seen.len())"
    return bench.python(source).split("SEEN ")[1].split()


def _is_morning_within(hours: float) -> bool:
    """Whether `morning` is to be called within hours from now, and so in as many hours a day later."""
    now = datetime.now(ZoneInfo("America/New_York"))
    return (6 - now.hour - now.minute / 60) % 24 <= hours


def test_schedules_of_a_deployed_app_fire(clocked):
    clocked.advance(86_400)
    assert _seen(clocked, 5) == ["morning", "often", "often", "often", "often", "0"]
    log = clocked.modal("app", "logs", "timed")
    assert "modalbatch: Cron('0 6 * * *', America/New_York) calls `morning` (fc-" in log
    assert "good morning" in log
    clocked.advance(6 * 3600)
    has_morning = _is_morning_within(6)
    assert _seen(clocked, 3 + has_morning) == ["failing"] + ["morning"] * has_morning + ["often", "often", "0"]
    assert "modalbatch: Period(hours=30) of `failing`: ValueError('no coffee')" in clocked.modal("app", "logs", "timed")


def test_schedules_of_an_ephemeral_app_do_not_fire(clocked):
    clocked.modal("app", "stop", "timed", "--yes")
    source = (
        "import modal, timed\n"
        "with timed.app.run():\n"
        "    timed.advance(86400)\n    print('DOUBLE', timed.double.remote(2), 'SEEN', timed.seen.len())\n"
    )
    assert "DOUBLE 4 SEEN 0" in clocked.python(source)
    assert "schedules fire when the app is deployed (`modal deploy`)" in clocked.modal("run", "timed.py")
    clocked.modal("deploy", "timed.py")


def test_a_schedule_that_means_nothing_is_refused(clocked, tmp_path):
    for number, (schedule, told) in enumerate(
        [
            ("modal.Cron('0 25 * * *')", "schedule of `f`: `25` is no hour of a cron expression (0-23)"),
            ("modal.Cron('0 0 * * *', timezone='Mars/Base')", "time zone `Mars/Base` is not known on this machine"),
            ("modal.Period()", "schedule of `f`: Period() is no time that passes"),
        ]
    ):
        (tmp_path / f"bad{number}.py").write_text(
            f"import modal\napp = modal.App('bad')\n@app.function(schedule={schedule})\ndef f(): pass\n"
        )
        output = clocked.modal("deploy", f"bad{number}.py", code=1, cwd=tmp_path)
        assert told in output.replace("\n", " ")


def test_schedules_go_on_with_the_next_engine(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODALBATCH_CLOCK", "socket")
    with LocalEngine(home) as engine:
        Bench(home, engine).modal("deploy", "timed.py")
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        bench.advance(5 * 3600)
        assert "often" in _seen(bench, 1 + _is_morning_within(5))
