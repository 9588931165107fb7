"""When a scheduled function of a deployed app is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from modal_proto import api_pb2

from modalbatch.engines.local.schedules.clock import Clock
from modalbatch.engines.local.schedules.schedule import Cycle, Scheduler


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


def _period(**units: float) -> Cycle:
    return Cycle(api_pb2.Schedule(period=api_pb2.Schedule.Period(**units)))


def _times(cycle: Cycle, start: str, n: int) -> list[str]:
    begun = moment = _moment(start)
    found = []
    for _ in range(n):
        moment = cycle.after(moment, begun)
        found.append(datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M:%S"))
    return found


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"seconds": 2.5}, ["2025-01-31 10:00:02", "2025-01-31 10:00:05", "2025-01-31 10:00:07"]),
        ({"hours": 5, "minutes": 30}, ["2025-01-31 15:30:00", "2025-01-31 21:00:00"]),
        ({"weeks": 1, "days": 1}, ["2025-02-08 10:00:00", "2025-02-16 10:00:00"]),
        ({"months": 1}, ["2025-02-28 10:00:00", "2025-03-31 10:00:00", "2025-04-30 10:00:00"]),
        ({"years": 1, "days": 1}, ["2026-02-01 10:00:00", "2027-02-02 10:00:00"]),
    ],
)
def test_a_period_counts_from_the_deployment(units, expected):
    assert _times(_period(**units), "2025-01-31T10:00:00", len(expected)) == expected


def test_a_period_goes_on_where_it_was_after_a_long_time():
    begun = _moment("2025-01-31T10:00:00")
    found = _period(months=1).after(_moment("2031-06-15T00:00:00"), begun)
    assert datetime.fromtimestamp(found, timezone.utc) == datetime(2031, 6, 30, 10, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("units", "told"),
    [({}, "Period() is no time that passes"), ({"days": -1}, "Period(days=-1) is no time that passes")],
)
def test_a_period_must_pass(units, told):
    with pytest.raises(ValueError, match=r"no time") as raised:
        _period(**units)
    assert str(raised.value) == told


class _Book:
    """An app whose scheduled calls are written down instead of run."""

    def __init__(self, clock: Clock, **schedules: api_pb2.Schedule) -> None:
        self.clock = clock
        self.seen: list[tuple[str, float]] = []
        self.log: list[str] = []
        self.keep: Callable[[int, object], None] | None = None
        self.app = SimpleNamespace(
            id="ap-1",
            state=api_pb2.APP_STATE_DEPLOYED,
            deployed_at=clock.now(),
            function_ids={name: name for name in schedules},
            functions={},
            log=SimpleNamespace(write=lambda text, **_: self.log.append(text)),
        )
        for name, schedule in schedules.items():
            self.app.functions[name] = SimpleNamespace(
                id=name,
                name=name,
                app=self.app,
                definition=api_pb2.Function(schedule=schedule),
                pool=SimpleNamespace(add=lambda item: self.seen.append((item, clock.now()))),
            )
        self.scheduler = Scheduler(clock, self._start, lambda call, items: None)
        self.scheduler.renew(self.app)

    def _start(self, function):
        self.call = SimpleNamespace(id="fc-1", keep=self.keep, add=lambda idx, data: function.name)
        return self.call


_HOURLY = api_pb2.Schedule(cron=api_pb2.Schedule.Cron(cron_string="0 * * * *", timezone="UTC"))
_BY_PERIOD = api_pb2.Schedule(period=api_pb2.Schedule.Period(minutes=90))


def _clock() -> Clock:
    start = _moment("2025-01-01T00:30:00")
    return Clock(lambda: start, lambda: 0.0)


def _after(book: _Book, start: float) -> list[tuple[str, float]]:
    return [(name, (moment - start) / 60) for name, moment in book.seen]


def test_what_falls_due_is_called_at_its_time():
    async def turn():
        book = _Book(_clock(), hourly=_HOURLY, often=_BY_PERIOD, never=api_pb2.Schedule())
        start = book.clock.now()
        book.clock.advance(3 * 3600)
        assert _after(book, start) == [
            ("hourly", 30), ("hourly", 90), ("often", 90), ("hourly", 150), ("often", 180),
        ]  # fmt: skip
        assert book.log[0] == "modalbatch: Cron('0 * * * *', UTC) calls `hourly` (fc-1)\n"

    asyncio.run(turn())


def test_a_deployment_starts_a_period_anew_and_a_stop_ends_it():
    async def turn():
        book = _Book(_clock(), often=_BY_PERIOD)
        start = book.clock.now()
        book.clock.advance(3600)
        book.app.deployed_at = book.clock.now()
        book.scheduler.renew(book.app)
        book.clock.advance(3600)
        assert book.seen == []
        book.clock.advance(1800)
        assert _after(book, start) == [("often", 150)]
        book.scheduler.drop(book.app)
        book.clock.advance(86_400)
        assert len(book.seen) == 1

    asyncio.run(turn())


def test_an_ephemeral_app_has_no_schedules():
    async def turn():
        book = _Book(_clock(), hourly=_HOURLY)
        book.app.state = api_pb2.APP_STATE_EPHEMERAL
        book.scheduler.renew(book.app)
        book.clock.advance(86_400)
        assert book.seen == []

    asyncio.run(turn())


def test_times_that_passed_in_sleep_are_made_up_for_by_one_call():
    async def turn():
        start, slept = _moment("2025-01-01T00:30:00"), 0.0
        clock = Clock(lambda: start + slept, lambda: 0.0)
        book = _Book(clock, hourly=_HOURLY)
        slept = 10 * 3600.0  # the steady clock stands still meanwhile
        clock.advance(60)
        assert len(book.seen) == 1
        clock.advance(3600)
        assert len(book.seen) == 2

    asyncio.run(turn())


def test_a_failure_is_logged_and_the_result_is_kept():
    async def turn():
        book = _Book(_clock(), hourly=_HOURLY)
        kept = []
        book.keep = lambda output: kept.append(output.idx)
        book.clock.advance(1800)
        failed = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_FAILURE, exception="ValueError('x')")
        book.call.keep(api_pb2.FunctionGetOutputsItem(result=failed))
        assert book.log[-1] == "modalbatch: Cron('0 * * * *', UTC) of `hourly`: ValueError('x')\n"
        assert kept == [0]

    asyncio.run(turn())
