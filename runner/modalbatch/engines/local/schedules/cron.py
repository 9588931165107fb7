"""Cron expressions of five fields in a time zone. Runs on: laptop.

Owns their meaning, which is that of Unix cron: when both the day of the month and the day of the week are restricted,
either is enough. A time that the clock skips when summer begins counts as much later as the clock jumps; one that comes
twice when summer ends counts once, unless the expression names every hour.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone

#: Days to look ahead: from one 29 February to the next there may be eight years.
_HORIZON_DAYS = 8 * 366 + 1
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """What one field may say."""

    name: str
    first: int
    last: int
    #: Words for the numbers from `first` on.
    words: tuple[str, ...] = ()


_FIELDS = (
    _Field(name="minute", first=0, last=59),
    _Field(name="hour", first=0, last=23),
    _Field(name="day of month", first=1, last=31),
    _Field(name="month", first=1, last=12, words=_MONTHS),
    _Field(name="day of week", first=0, last=7, words=_WEEKDAYS),
)


class Cron:
    """A cron expression.

    Raises: ValueError, with a sentence for a person, when it means nothing.
    """

    def __init__(self, expression: str, timezone_name: str) -> None:
        parts = expression.split()
        if len(parts) != len(_FIELDS):
            raise ValueError(f"cron expression `{expression}` has {len(parts)} fields, not {len(_FIELDS)}")
        sets = [_parse(part, field) for part, field in zip(parts, _FIELDS, strict=True)]
        self._minutes, self._hours, self._days, self._months = sets[:4]
        self._weekdays = frozenset(number % 7 for number in sets[4])
        self._is_either_day = not parts[2].startswith("*") and not parts[4].startswith("*")
        self._is_hourly = len(self._hours) == 24
        try:
            self._zone = zoneinfo.ZoneInfo(timezone_name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"time zone `{timezone_name}` is not known on this machine") from error
        if self.after(datetime(2000, 1, 1, tzinfo=timezone.utc).timestamp()) is None:
            raise ValueError(f"cron expression `{expression}` names a day that never comes")

    def after(self, moment: float) -> float | None:
        """The first time after a moment, both unix seconds; None when there is none in eight years."""
        # From the day before: a time that the clock skips may count on the next day.
        day = datetime.fromtimestamp(moment, self._zone).date() - _ONE_DAY
        for _ in range(_HORIZON_DAYS):
            if self._is_day(day):
                times = [found for found in self._times(day) if found > moment]
                if times:
                    return min(times)
            day += _ONE_DAY
        return None

    def _is_day(self, day: date) -> bool:
        in_month, in_week = day.day in self._days, day.isoweekday() % 7 in self._weekdays
        is_right = in_month or in_week if self._is_either_day else in_month and in_week
        return is_right and day.month in self._months

    def _times(self, day: date) -> Iterator[float]:
        """Every time of a day as unix seconds, not quite in order where the clock is turned."""
        for hour in self._hours:
            for minute in self._minutes:
                local = datetime.combine(day, time(hour, minute), self._zone)
                # In a gap, `fold=0` reckons with the time before it, so the result is as much later as the clock jumps.
                first = local.timestamp()
                yield first
                second = local.replace(fold=1).timestamp()
                if self._is_hourly and second > first:
                    yield second


def _parse(text: str, field: _Field) -> frozenset[int]:
    """The numbers that a field names."""
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        if slash and (not step.isdecimal() or int(step) == 0):
            raise ValueError(f"`{part}` is no {field.name} of a cron expression")
        if span == "*":
            first, last = field.first, field.last
        else:
            low, dash, high = span.partition("-")
            first = _number(low, field, part)
            # `5/15` is 5, 20, 35, ...
            last = _number(high, field, part) if dash else field.last if slash else first
        if first > last:
            raise ValueError(f"`{part}` goes backwards in the {field.name} of a cron expression")
        found.update(range(first, last + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str, field: _Field, part: str) -> int:
    if text.lower() in field.words:
        return field.first + field.words.index(text.lower())
    if not text.isdecimal() or not field.first <= int(text) <= field.last:
        raise ValueError(f"`{part}` is no {field.name} of a cron expression ({field.first}-{field.last})")
    return int(text)
