"""Cron expressions: what they name, and what happens when the clock is turned."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from modalbatch.engines.local.schedules.cron import Cron


def _times(expression: str, start: str, n: int, zone: str = "UTC") -> list[str]:
    """The first `n` times after a local time, as local times with their offset from UTC."""
    cron = Cron(expression, zone)
    moment = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).timestamp()
    found = []
    for _ in range(n):
        moment = cron.after(moment)
        found.append(datetime.fromtimestamp(moment, ZoneInfo(zone)).strftime("%m-%d %H:%M %z"))
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", ["01-01 00:01", "01-01 00:02"]),
        ("*/15 * * * *", ["01-01 00:15", "01-01 00:30", "01-01 00:45", "01-01 01:00"]),
        ("5/20 3 * * *", ["01-01 03:05", "01-01 03:25", "01-01 03:45", "01-02 03:05"]),
        ("5 4 * * *", ["01-01 04:05", "01-02 04:05"]),
        ("0 9-17/4,23 * * *", ["01-01 09:00", "01-01 13:00", "01-01 17:00", "01-01 23:00"]),
        ("0 0 * * *", ["01-02 00:00"]),
        ("0 0 1 */3 *", ["04-01 00:00", "07-01 00:00", "10-01 00:00", "01-01 00:00"]),
        ("0 6 * jan,MAR mon", ["01-06 06:00", "01-13 06:00", "01-20 06:00", "01-27 06:00", "03-03 06:00"]),
        ("0 6 * * 5-7", ["01-03 06:00", "01-04 06:00", "01-05 06:00", "01-10 06:00"]),
        ("0 6 * * 0", ["01-05 06:00", "01-12 06:00"]),
        ("59 23 31 12 *", ["12-31 23:59", "12-31 23:59"]),
    ],
)
def test_the_next_times(expression, expected):
    # 1 January 2025 is a Wednesday.
    assert _times(expression, "2025-01-01T00:00", len(expected)) == [f"{text} +0000" for text in expected]


def test_two_restricted_days_are_either_of_them():
    assert _times("0 0 13 * fri", "2025-06-01T00:00", 4) == [
        "06-06 00:00 +0000",
        "06-13 00:00 +0000",
        "06-20 00:00 +0000",
        "06-27 00:00 +0000",
    ]
    assert "07-13 00:00 +0000" in _times("0 0 13 * fri", "2025-06-01T00:00", 8)


def test_a_star_with_a_step_restricts_the_other_day():
    assert _times("0 0 */2 * mon", "2025-06-01T00:00", 2) == ["06-09 00:00 +0000", "06-23 00:00 +0000"]


def test_the_29th_of_february_is_waited_for():
    cron = Cron("0 0 29 2 *", "UTC")
    start = datetime(2096, 3, 1, tzinfo=timezone.utc)
    assert cron.after(start.timestamp()) == datetime(2104, 2, 29, tzinfo=timezone.utc).timestamp()


def test_a_time_that_the_clock_skips_is_as_much_later():
    # In New York on 9 March 2025, 02:00 EST is 03:00 EDT.
    assert _times("30 2 * * *", "2025-03-08T00:00", 3, "America/New_York") == [
        "03-08 02:30 -0500",
        "03-09 03:30 -0400",
        "03-10 02:30 -0400",
    ]
    assert _times("0,30 * * * *", "2025-03-09T01:00", 4, "America/New_York") == [
        "03-09 01:30 -0500",
        "03-09 03:00 -0400",
        "03-09 03:30 -0400",
        "03-09 04:00 -0400",
    ]


def test_a_time_that_comes_twice_counts_once_unless_every_hour_is_named():
    # In New York on 2 November 2025, 02:00 EDT is 01:00 EST.
    assert _times("30 1 * * *", "2025-11-01T12:00", 2, "America/New_York") == [
        "11-02 01:30 -0400",
        "11-03 01:30 -0500",
    ]
    assert _times("30 * * * *", "2025-11-02T00:00", 4, "America/New_York") == [
        "11-02 00:30 -0400",
        "11-02 01:30 -0400",
        "11-02 01:30 -0500",
        "11-02 02:30 -0500",
    ]


def test_a_time_is_reached_from_every_second_of_a_day_that_has_25_hours():
    cron, zone = Cron("*/30 * * * *", "Europe/Berlin"), ZoneInfo("Europe/Berlin")
    moment, end = (datetime(2025, 10, day, tzinfo=zone).timestamp() for day in (26, 27))
    n_times = 0
    while (found := cron.after(moment)) is not None and found <= end:
        assert found - moment == timedelta(minutes=30).total_seconds()
        moment, n_times = found, n_times + 1
    assert n_times == 50


def test_a_day_that_a_country_leaves_out():
    # Samoa had no 30 December 2011: what falls on it comes 24 hours later, together with the next day's.
    assert _times("0 12 * * *", "2011-12-29T00:00", 3, "Pacific/Apia") == [
        "12-29 12:00 -1000",
        "12-31 12:00 +1400",
        "01-01 12:00 +1400",
    ]


@pytest.mark.parametrize(
    ("expression", "zone", "told"),
    [
        ("* * * *", "UTC", "cron expression `* * * *` has 4 fields, not 5"),
        ("@daily", "UTC", "cron expression `@daily` has 1 fields, not 5"),
        ("60 * * * *", "UTC", "`60` is no minute of a cron expression (0-59)"),
        ("* 24 * * *", "UTC", "`24` is no hour of a cron expression (0-23)"),
        ("* * 0 * *", "UTC", "`0` is no day of month of a cron expression (1-31)"),
        ("* * * foo *", "UTC", "`foo` is no month of a cron expression (1-12)"),
        ("* * * * mon#1", "UTC", "`mon#1` is no day of week of a cron expression (0-7)"),
        ("*/0 * * * *", "UTC", "`*/0` is no minute of a cron expression"),
        ("*/x * * * *", "UTC", "`*/x` is no minute of a cron expression"),
        ("1, * * * *", "UTC", "`` is no minute of a cron expression (0-59)"),
        ("* 5-3 * * *", "UTC", "`5-3` goes backwards in the hour of a cron expression"),
        ("0 0 31 feb,apr *", "UTC", "cron expression `0 0 31 feb,apr *` names a day that never comes"),
        ("0 0 * * *", "Mars/Base", "time zone `Mars/Base` is not known on this machine"),
        ("0 0 * * *", "../etc/passwd", "time zone `../etc/passwd` is not known on this machine"),
    ],
)
def test_what_means_nothing_is_said(expression, zone, told):
    with pytest.raises(ValueError) as raised:
        Cron(expression, zone)
    assert str(raised.value) == told
