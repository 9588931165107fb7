"""A run that goes on, followed until its end. Runs on: laptop.

Owns the loop over the client's events, and what Ctrl-C means at each moment. Decides nothing about the outcome.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from modalbatch.canonical import Json
from modalbatch.driver import runs
from modalbatch.engines.process import Interrupts
from modalbatch.errors import ModalbatchError
from modalbatch.report.console import Console
from modalbatch.sinks.objects import ObjectSink

#: Seconds that a local run has to finish what is running, after Ctrl-C.
DRAIN_S = 10.0
#: Seconds between looks at clock and engine while nothing happens.
TICK_S = 0.5
#: Seconds between looks at the sink for the end of a run whose call is not known here.
LOOK_S = 2.0


class Client(Protocol):
    """`engines.process.ClientProcess` or `ClientThread`."""

    def send(self, **order: object) -> None:
        """Give an order."""

    def events(self, interrupts: Interrupts | None = None, tick_s: float | None = None) -> Iterator[Json | None]:
        """What happens."""

    def died(self) -> ModalbatchError:
        """Why the events ended."""

    def kill(self) -> None:
        """End it."""


class End(NamedTuple):
    """How following a run ended."""

    #: `over`, `left` (it goes on without us) or `killed`.
    how: str
    #: The run's, when it is over.
    outcome: Json | None = None


class Following:
    """One run, followed."""

    def __init__(
        self,
        run_id: str,
        *,
        client: Client,
        sink: ObjectSink,
        console: Console,
        is_ours: bool,
        outlives_us: bool,
        on_tick: Callable[[], None],
        on_start: Callable[[Json], bool] = lambda event: True,
    ) -> None:
        """`outlives_us`: whether the run goes on without this command. `on_start`: whether to stay once it started."""
        self._run_id, self._client, self._sink, self._console = run_id, client, sink, console
        self._is_ours, self._outlives_us = is_ours, outlives_us
        self._on_tick, self._on_start = on_tick, on_start
        self._has_started = not is_ours
        #: When the run is ended by force.
        self._kill_at = float("inf")
        self._look_at = time.monotonic() + LOOK_S

    def run(self) -> End:
        """Follow.

        Raises:
            ModalbatchError: the run failed to start, or nobody can say how it ended.
        """
        n_seen = 0
        with Interrupts() as interrupts:
            for event in self._client.events(interrupts, TICK_S):
                self._on_tick()
                end = self._take(event) if event else self._look()
                n_interrupts = interrupts.n  # once: another may come while this one is answered
                if end is None and n_interrupts > n_seen:
                    end = self._interrupt(is_first=n_seen == 0)
                    n_seen = n_interrupts
                if end is None and time.monotonic() >= self._kill_at:
                    self._client.kill()
                    end = End("killed")
                if end is not None:
                    return end
        raise self._client.died()

    def _take(self, event: Json) -> End | None:
        kind = event["event"]
        if kind == "outcome":
            return End("over", event)
        if kind == "started":
            self._has_started = True
            return None if self._on_start(event) else End("left")
        if kind == "progress":
            self._console.progress(event)
            return self._look()
        if kind == "log":
            self._console.log(event)
        return None

    def _look(self) -> End | None:
        """Whether the sink says that another command's run is over: its call may not be known here."""
        if self._is_ours or time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + LOOK_S
        run = runs.read_run(self._sink, self._run_id)
        return End("over", run["end"]) if run and run["end"] else None

    def _interrupt(self, *, is_first: bool) -> End | None:
        if self._has_started and (self._outlives_us or not self._is_ours):
            return End("left")
        can_drain = is_first and self._has_started and self._ask_to_stop()
        self._kill_at = time.monotonic() + DRAIN_S if can_drain else 0.0
        return None

    def _ask_to_stop(self) -> bool:
        try:
            runs.ask_to_stop(self._sink, self._run_id, "Ctrl-C")
        except ModalbatchError:  # nobody can be asked: then it ends now
            return False
        self._console.say(f"stopping: what is running may finish for {DRAIN_S:.0f} s; Ctrl-C again ends it now")
        return True
