"""Faults on request, as they happen: to containers, deliveries and replies. Runs on: laptop.

Owns doing what `chaos.py` decides, its line in the app's log and its count. An engine without `--chaos` has no instance
of this; the scheduler and the service ask whether there is one and go on.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from modalbatch.engines.local.calls.call import Call, Input
from modalbatch.engines.local.containers.container import Container, Reason
from modalbatch.engines.local.faults.chaos import Chaos
from modalbatch.engines.local.function import App
from modalbatch.engines.local.wire import Message, read_token

#: How long a preempted container may take for its exit handlers.
_PREEMPTION_GRACE_S = 10.0
#: What the summary says of each kind.
_DONE = {
    "preempt": "preempted",
    "crash": "crashed",
    "hang": "hung",
    "lost-reply": "lost replies",
    "slow": "delayed",
    "duplicate": "delivered twice",
}


@dataclass(slots=True, eq=False)
class Trial:
    """What faults have done, and will do, to one input."""

    #: App, function, number of the call and of the input: the same in every run.
    name: str
    n_queued: int = 0
    is_delayed: bool = False
    n_deliveries: int = 0
    #: The fault that the present delivery will meet.
    strike: str = ""
    #: It has met it: whatever it still reports is lost.
    is_struck: bool = False


@dataclass(slots=True, eq=False)
class Double(Input):
    """A second delivery of an input that runs: the first one's outcome counts, this one's goes nowhere."""

    original: Input | None = None
    container: Container | None = None

    @property
    def is_late(self) -> bool:
        """Whether the first delivery has ended."""
        return self.container is None or self.container.running.get(self.id) is not self.original


@dataclass(slots=True, eq=False)
class Faults:
    """The faults of one engine."""

    chaos: Chaos
    #: Called when something that kept an app busy is over.
    settled: Callable[[App], None]
    counts: Counter[str] = field(default_factory=Counter)
    _n_calls: Counter[str] = field(default_factory=Counter)
    #: The app and the repeatable name of each call, by its id without the prefix.
    _calls: dict[str, tuple[App, str]] = field(default_factory=dict)

    def summary(self) -> str:
        """What was done, in a line."""
        done = [f"{self.counts[kind]} {word}" for kind, word in _DONE.items() if self.counts[kind]]
        return f"chaos (seed {self.chaos.seed}): {', '.join(done) or 'nothing was hit'}"

    def name_call(self, call: Call) -> None:
        """Gives a new call its repeatable name."""
        function = f"{call.function.app.name}/{call.function.name}"
        self._n_calls[function] += 1
        self._calls[call.id[3:]] = (call.function.app, f"{function}#{self._n_calls[function]}")

    # -- deliveries: the hooks of `pool.py`

    def delays(self, item: Input, queue: Callable[[Input], None]) -> bool:
        """Holds an input back that should be slow; it is queued again after that."""
        if isinstance(item, Double) or not self._concerns(item):
            return False
        trial = self._trial(item)
        if trial.is_delayed:
            trial.is_delayed = False
            return False
        trial.n_queued += 1
        if not self.chaos.is_slow(trial.name, trial.n_queued):
            return False
        trial.is_delayed = True
        asyncio.get_running_loop().call_later(self.chaos.delay_s, queue, item)
        self._tell("slow", item.call.function.app, f"delayed {item.id} by {self.chaos.delay_s:g} s")
        return True

    def keeps_from(self, container: Container, item: Input, kept: list[Input]) -> bool:
        """Whether a container must not get an input now; one that another container may get goes into `kept`."""
        if isinstance(item, Double) and item.is_late:
            self.settled(item.call.function.app)
            return True
        if item.id in container.running:
            kept.append(item)
            return True
        return False

    def delivered(self, container: Container, item: Input, queue: Callable[..., None]) -> None:
        """Decides what an input meets that a container has just been given."""
        app, loop = item.call.function.app, asyncio.get_running_loop()
        if isinstance(item, Double):
            first = item.container.id if item.container else ""
            self._tell("duplicate", app, f"delivered {item.id} to {container.id} too, while {first} runs it")
            return
        if not self._concerns(item):
            return
        trial = self._trial(item)
        trial.n_deliveries += 1
        number = trial.n_deliveries
        trial.strike, trial.is_struck = self.chaos.strike(trial.name, number), False
        if trial.strike:
            loop.call_later(self.chaos.moment_s(trial.name, number), self._strike, container, item, number)
        if self.chaos.is_doubled(trial.name, number):
            loop.call_soon(partial(queue, self._double(container, item), first=True))

    def swallows(self, container: Container, output: Message) -> bool:
        """Whether an output is lost: its input has met a fault, or meets it now if the output is earlier."""
        item = container.running.get(output.input_id)
        if item is None or item.trial is None or isinstance(item, Double):
            return False
        return item.trial.is_struck or self._strike(container, item, item.trial.n_deliveries)

    def _strike(self, container: Container, item: Input, delivery: int) -> bool:
        """Does what was decided, unless the container is about to end anyway; whether it did."""
        trial = item.trial
        is_running = container.running.get(item.id) is item and not container.is_draining
        if trial is None or not trial.strike or trial.n_deliveries != delivery or not is_running:
            return False
        kind, trial.strike, trial.is_struck = trial.strike, "", True
        if kind == "preempt":
            container.kill(Reason.PREEMPT, signal.SIGINT)
            asyncio.get_running_loop().call_later(_PREEMPTION_GRACE_S, container.kill, Reason.PREEMPT)
        elif kind == "crash":
            container.kill(Reason.UNKNOWN)
        else:
            container.kill(Reason.UNKNOWN, signal.SIGSTOP)  # the input's own time limit ends it
        self._tell(kind, item.call.function.app, f"{_DONE[kind]} {container.id} during {item.id}")
        return True

    def _double(self, container: Container, item: Input) -> Double:
        call = item.call
        # Nobody reads this call; it has the id of the real one, so that a cancellation finds it.
        shadow = Call(call.id, call.function, is_sync=True, is_map=True)
        shadow.keep = lambda _output: self.settled(call.function.app)
        return Double(item.id, item.idx, shadow, item.data, item.retry, original=item, container=container)

    def _concerns(self, item: Input) -> bool:
        """Whether faults are for an input: the run that builds an image has no second try."""
        return item.call.id[3:] in self._calls

    def _trial(self, item: Input) -> Trial:
        if item.trial is None:
            item.trial = Trial(f"{self._calls[item.call.id[3:]][1]}:{item.idx}")
        return item.trial

    # -- replies: the hook of `service.py`

    def loses(self, rpc: str, request: Message, reply: Message, attempt: int) -> bool:
        """Whether a reply is to be lost, now that its effect has happened."""
        read = _SUBJECTS.get(rpc)
        call_id, _, idx = (read(request, reply) if read is not None else "")[3:].partition(":")
        app, name = self._calls.get(call_id, (None, ""))
        if app is None or not self.chaos.is_lost(rpc, f"{name}:{idx}", attempt):
            return False
        subject = f"in-{call_id}:{idx}" if idx else f"fc-{call_id}"
        self._tell("lost-reply", app, f"lost the reply to {rpc} about {subject}")
        return True

    def _tell(self, kind: str, app: App, text: str) -> None:
        self.counts[kind] += 1
        app.log.write(f"chaos: {text}\n")


def _first(items: Message) -> str:
    return str(items[0].input_id) if items else ""


def _retried(_request: Message, reply: Message) -> str:
    return str(read_token(reply.input_jwts[0])["id"]) if reply.input_jwts else ""


#: Requests whose replies can be lost, and how to tell which input or call each is about.
_SUBJECTS: dict[str, Callable[[Message, Message], str]] = {
    "FunctionMap": lambda _request, reply: str(reply.function_call_id),
    "FunctionPutInputs": lambda _request, reply: _first(reply.inputs),
    "FunctionRetryInputs": _retried,
    "FunctionGetOutputs": lambda _request, reply: _first(reply.outputs),
    "FunctionGetInputs": lambda _request, reply: _first(reply.inputs),
    "FunctionPutOutputs": lambda request, _reply: _first(request.outputs),
}
