"""Time for the engine's long rules, put ahead instead of waited for."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from modalbatch.engines.local.schedules.clock import Clock, serve_clock


def _still() -> Clock:
    """A clock that moves only when it is put ahead."""
    return Clock(lambda: 1_000.0, lambda: 5.0)


def test_it_goes_with_the_machine_and_can_be_put_ahead():
    async def turn():
        clock = _still()
        clock.advance(7 * 86_400)
        return clock.now(), clock.monotonic()

    assert asyncio.run(turn()) == (1_000.0 + 604_800, 5.0 + 604_800)


def test_what_falls_due_on_the_way_is_done_in_order_at_its_own_time():
    seen = []

    async def turn():
        clock = _still()

        def every_hour():
            seen.append(clock.now())
            clock.call_later(3600, every_hour)

        clock.call_later(3600, every_hour)
        clock.call_later(5400, lambda: seen.append("once"))
        clock.call_later(5400, lambda: seen.append("never")).cancel()
        clock.advance(3 * 3600)

    asyncio.run(turn())
    assert seen == [1_000.0 + 3600, "once", 1_000.0 + 7200, 1_000.0 + 10_800]


def test_a_timer_that_fails_does_not_stop_the_others(caplog):
    seen = []

    async def turn():
        clock = _still()
        clock.call_later(1, lambda: 1 / 0)
        clock.call_later(2, lambda: seen.append(2))
        clock.advance(3)

    asyncio.run(turn())
    assert seen == [2]
    assert "ZeroDivisionError" in caplog.text


def test_without_being_put_ahead_timers_fire_by_themselves():
    async def wait():
        done = asyncio.Event()
        clock = Clock()
        clock.call_later(3600, lambda: None)
        clock.call_later(0.01, done.set)
        await done.wait()

    asyncio.run(wait())


def test_the_socket_is_there_only_when_asked_for():
    async def ask(environ):
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            clock = _still()
            server = await serve_clock(clock, Path(folder), environ)
            if server is None:
                return list(Path(folder).iterdir())
            reader, writer = await asyncio.open_unix_connection(str(Path(folder) / "clock"))
            writer.write(b"60\n")
            answer = await reader.readline()
            writer.close()
            server.close()
            mode = (Path(folder) / "clock").stat().st_mode & 0o777
            return answer, clock.now(), mode

    assert asyncio.run(ask({})) == []
    assert asyncio.run(ask({"MODALBATCH_CLOCK": "1"})) == []
    assert asyncio.run(ask({"MODALBATCH_CLOCK": "socket"})) == (b"1060.0\n", 1060.0, 0o600)
