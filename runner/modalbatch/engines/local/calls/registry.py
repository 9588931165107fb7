"""The calls of an engine, by id. Runs on: laptop.

Owns which calls are known, and that results of spawned ones are kept: across restarts, and past the end of the engine
for those of deployed apps, which the next one takes up.
"""

from __future__ import annotations

from collections.abc import Callable

from modalbatch.engines.local.calls.call import Call
from modalbatch.engines.local.calls.caller import CallerWatch
from modalbatch.engines.local.calls.journal import Journal
from modalbatch.engines.local.faults.fault import Faults
from modalbatch.engines.local.function import App, Function
from modalbatch.engines.local.schedules.clock import Clock
from modalbatch.engines.local.wire import TERMINATED, Message, mint_id, not_found


class Calls:
    """Calls that have unfinished work, or outputs that nobody has fetched."""

    def __init__(self, journal: Journal, clock: Clock, faults: Faults | None, settled: Callable[[App], None]) -> None:
        """`settled` hears when something that kept an app busy is over."""
        self._journal = journal
        self._clock = clock
        self._faults = faults
        self._settled = settled
        self._calls: dict[str, Call] = {}
        self._is_closing = False
        #: Who waits for them.
        self.callers = CallerWatch(clock, lambda: self._calls)

    def resume(self, find_function: Callable[[str], Function | None]) -> None:
        """Takes up the calls that an earlier engine has left open; needs a service that containers can reach."""
        for call in self._journal.unfinished(find_function):
            self._take(call)
            self._keep_outputs(call)
            for item in list(call.inputs.values()):
                call.function.pool.add(item)

    def add(self, function: Function, *, is_sync: bool, is_map: bool) -> Call:
        """A new call; one that is spawned is kept across restarts."""
        call = Call(mint_id("fc"), function, is_sync, is_map, created_at=self._clock.now())
        call.heard_at = self._clock.monotonic()
        self._take(call)
        if not is_sync:
            self._keep_outputs(call)
            self._journal.open_call(call)
        return call

    def find(self, call_id: str) -> Call | None:
        """A call that is known here."""
        return self._calls.get(call_id)

    def get(self, call_id: str) -> Call:
        """A call by id. Raises: NOT_FOUND."""
        if call_id not in self._calls:
            raise not_found(f"function call {call_id} is not known here")
        return self._calls[call_id]

    def drop(self, call: Call) -> None:
        """Forgets a call that is finished and fetched."""
        self._calls.pop(call.id, None)

    def drop_all(self, app: App) -> None:
        """Forgets the calls of an app that has stopped."""
        self._calls = {key: call for key, call in self._calls.items() if call.function.app is not app}

    def has_work(self, app: App) -> bool:
        """Whether an input of an app's calls lacks its last output."""
        return any(call.inputs for call in self._calls.values() if call.function.app is app)

    def close(self) -> None:
        """From here on it is our end, not theirs, when calls of deployed apps are terminated."""
        self._is_closing = True

    def _take(self, call: Call) -> None:
        self._calls[call.id] = call
        if self._faults is not None:
            self._faults.name_call(call)

    def _keep_outputs(self, call: Call) -> None:
        call.keep = lambda output: self._keep_output(call, output)

    def _keep_output(self, call: Call, output: Message) -> None:
        if self._is_closing and call.function.app.deployed_at and output.result.status == TERMINATED:
            return  # the next engine takes it up
        self._journal.keep_output(call, output)
        if not call.inputs and not call.is_map:
            self.drop(call)
        self._settled(call.function.app)
