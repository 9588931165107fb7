"""Schedules of deployed apps. Runs on: laptop.

Owns when a scheduled function is called: `modal.Cron` by the wall clock, `modal.Period` counted from the deployment. An
engine fires what falls due while it runs; times that passed while the machine slept are made up for by one call.
"""

from __future__ import annotations

import calendar
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from modalbatch.engines.local.calls.call import Call, Input
from modalbatch.engines.local.schedules.clock import Clock, Timer
from modalbatch.engines.local.schedules.cron import Cron
from modalbatch.engines.local.wire import SUCCESS, Message, proto

if TYPE_CHECKING:
    from modalbatch.engines.local.function import App, Function

#: The wall clock is looked at this often at least: it may be set, and the machine may have slept.
_LOOK_S = 60.0
_NO_ARGUMENTS = pickle.dumps(((), {}), protocol=4)


class Cycle:
    """A `Schedule` message as a rule for the next time.

    Raises: ValueError, with a sentence for a person, when it means nothing.
    """

    def __init__(self, schedule: Message) -> None:
        self._cron: Cron | None = None
        if schedule.WhichOneof("schedule_oneof") == "cron":
            name = schedule.cron.timezone or "UTC"
            self._cron = Cron(schedule.cron.cron_string, name)
            self.label = f"Cron({schedule.cron.cron_string!r}, {name})"
            return
        period = schedule.period
        self._n_months = 12 * period.years + period.months
        self._step = timedelta(
            days=7 * period.weeks + period.days, hours=period.hours, minutes=period.minutes, seconds=period.seconds
        )
        said = ", ".join(f"{field.name}={value:g}" for field, value in period.ListFields())
        self.label = f"Period({said})"
        if any(value < 0 for _, value in period.ListFields()) or not (self._n_months or self._step):
            raise ValueError(f"{self.label} is no time that passes")

    def after(self, moment: float, start: float) -> float | None:
        """The first time after a moment, of a schedule that began at `start`; all in unix seconds."""
        if self._cron is not None:
            return self._cron.after(moment)
        longest_s = self._n_months * 31 * 86_400 + self._step.total_seconds()
        n_passed = max(1, int((moment - start) / longest_s))
        while (found := self._nth(n_passed, start)) <= moment:
            n_passed += 1
        return found

    def _nth(self, number: int, start: float) -> float:
        begun = datetime.fromtimestamp(start, timezone.utc)
        months = begun.year * 12 + begun.month - 1 + number * self._n_months
        year, month = months // 12, months % 12 + 1
        # A month that is too short has its last day instead, and the next one the right day again.
        day = min(begun.day, calendar.monthrange(year, month)[1])
        return (begun.replace(year=year, month=month, day=day) + number * self._step).timestamp()


@dataclass(slots=True, kw_only=True)
class _Plan:
    """A scheduled function and its next time."""

    function: Function
    cycle: Cycle
    due: float
    timer: Timer | None = None


class Scheduler:
    """Calls functions when their time has come."""

    def __init__(
        self, clock: Clock, start: Callable[[Function], Call], save: Callable[[Call, list[Input]], None]
    ) -> None:
        self._clock = clock
        self._start = start
        self._save = save
        self._plans: dict[str, list[_Plan]] = {}

    def renew(self, app: App) -> None:
        """Plans what a deployed app asks for, in place of what it asked for before."""
        self.drop(app)
        if app.state != proto.APP_STATE_DEPLOYED:
            return
        for function in app.functions.values():
            schedule = function.definition.schedule
            if function.id in app.function_ids.values() and schedule.WhichOneof("schedule_oneof"):
                self._plan(function, Cycle(schedule))

    def drop(self, app: App) -> None:
        """Ends an app's schedules."""
        for plan in self._plans.pop(app.id, []):
            if plan.timer is not None:
                plan.timer.cancel()

    def _plan(self, function: Function, cycle: Cycle) -> None:
        due = cycle.after(self._clock.now(), function.app.deployed_at)
        if due is not None:
            plan = _Plan(function=function, cycle=cycle, due=due)
            self._plans.setdefault(function.app.id, []).append(plan)
            self._wait(plan)

    def _wait(self, plan: _Plan) -> None:
        left_s = plan.due - self._clock.now()
        plan.timer = self._clock.call_later(min(left_s, _LOOK_S), lambda: self._look(plan))

    def _look(self, plan: _Plan) -> None:
        now = self._clock.now()
        if plan.due <= now:
            self._fire(plan.function, plan.cycle.label)
            due = plan.cycle.after(now, plan.function.app.deployed_at)
            if due is None:
                return
            plan.due = due
        self._wait(plan)

    def _fire(self, function: Function, label: str) -> None:
        call = self._start(function)
        keep, log = call.keep, function.app.log

        def tell(output: Message) -> None:
            if output.result.status != SUCCESS:
                said = output.result.exception.strip() or "it did not succeed"
                log.write(f"modalbatch: {label} of `{function.name}`: {said}\n", function_id=function.id)
            if keep is not None:
                keep(output)

        call.keep = tell
        item = call.add(0, proto.FunctionInput(args=_NO_ARGUMENTS, data_format=proto.DATA_FORMAT_PICKLE))
        self._save(call, [item])
        log.write(f"modalbatch: {label} calls `{function.name}` ({call.id})\n", function_id=function.id)
        function.pool.add(item)
