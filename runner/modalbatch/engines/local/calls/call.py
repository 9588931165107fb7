"""Calls and their inputs: what was asked, what has come back. Runs on: laptop.

Owns the bookkeeping of outputs: which are due, which were acknowledged, which must outlive the engine. Pure of time,
processes and network, apart from the event that wakes a waiting client.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from modalbatch.engines.local.calls.stream import DataStream
from modalbatch.engines.local.wire import Message

if TYPE_CHECKING:
    from modalbatch.engines.local.faults.fault import Trial
    from modalbatch.engines.local.function import Function

#: Outputs and their inline bytes in one answer to a map client.
MAX_OUTPUTS = 200
MAX_OUTPUT_BYTES = 8 << 20


@dataclass(slots=True, eq=False)
class Input:
    """One input of a call, until its last output."""

    id: str
    idx: int
    call: Call
    #: The arguments, as the client sent them (`FunctionInput`).
    data: Message
    #: Finished attempts.
    retry: int = 0
    #: Unix time of the start of the attempt that runs now; 0 while it waits.
    started_at: float = 0.0
    #: Containers that died under it.
    n_crashes: int = 0
    timer: asyncio.TimerHandle | None = None
    #: What faults on request do to it.
    trial: Trial | None = None

    def stop_timer(self) -> None:
        """Ends the watch over this attempt's time limit."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(slots=True, eq=False)
class Call:
    """One invocation: a single call (one input) or a map (many)."""

    id: str
    function: Function
    #: The caller waits (`.remote`, `.map`); otherwise results are kept for later (`.spawn`).
    is_sync: bool
    is_map: bool
    #: Inputs without a last output, or whose failure the client may retry.
    inputs: dict[str, Input] = field(default_factory=dict)
    n_inputs: int = 0
    is_cancelled: bool = False
    #: Unix time of its creation.
    created_at: float = 0.0
    #: Requests for outputs that are open, and when the last one ended (on the engine's steady clock).
    n_open: int = 0
    heard_at: float = 0.0
    #: Keeps an output of a spawned call; set when it is not sync.
    keep: Callable[[Message], None] | None = None
    #: What a generator yields to a caller that waits.
    stream: DataStream | None = None
    #: What the HTTP client of a web function sends; only such calls have one.
    body: DataStream | None = None
    #: Requests for outputs so far; a caller that hangs up makes no more.
    n_polls: int = 0
    #: Outputs of a map that the client has not acknowledged, with their numbers.
    _stream: deque[tuple[int, Message]] = field(default_factory=deque)
    _n_streamed: int = 0
    #: Last output of a sync single call.
    _last: Message | None = None
    _waiters: set[asyncio.Future[None]] = field(default_factory=set)

    def add(self, idx: int, data: Message) -> Input:
        """A new input."""
        added = Input(id_of_input(self.id, idx), idx, self, data)
        self.inputs[added.id] = added
        self.n_inputs += 1
        return added

    def facts(self) -> dict[str, object]:
        """What is kept of a spawned call."""
        function = self.function
        return {
            "app_id": function.app.id,
            "function_id": function.id,
            "is_map": self.is_map,
            "n_inputs": self.n_inputs,
            "created_at": self.created_at,
        }

    def emit(self, output: Message) -> None:
        """Takes an output and wakes who waits for it."""
        if self.keep is not None:
            self.keep(output)
        elif self.is_map:
            self._n_streamed += 1
            self._stream.append((self._n_streamed, output))
        else:
            self._last = output
        self.wake()

    def wake(self) -> None:
        """Ends every `wait`."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def acknowledge(self, number: int) -> None:
        """Forgets the outputs up to a number: the client has them."""
        while self._stream and self._stream[0][0] <= number:
            self._stream.popleft()

    def due(self) -> tuple[list[Message], int]:
        """Outputs to send now and the number of the last one."""
        if not self.is_map:
            return ([self._last] if self._last is not None and not self.is_held_back else []), 0
        outputs: list[Message] = []
        last, size = 0, 0
        for number, output in islice(self._stream, MAX_OUTPUTS):
            outputs.append(output)
            last, size = number, size + len(output.result.data)
            if size > MAX_OUTPUT_BYTES:
                break
        return outputs, last

    @property
    def is_held_back(self) -> bool:
        """Whether there is a result that must wait until the caller confirms what was yielded before it."""
        return self._last is not None and self.stream is not None and not self.stream.is_confirmed

    @property
    def is_begun(self) -> bool:
        """Whether an HTTP client may have a part of the answer, so that running again would mix two answers."""
        return self.body is not None and self.stream is not None and self.stream.n_put > 0

    def open_stream(self) -> DataStream:
        """The stream of chunks, from the first use on."""
        self.stream = self.stream or DataStream()
        return self.stream

    def forget_last(self) -> None:
        """Drops a failure that the client retries."""
        self._last = None

    @property
    def n_due(self) -> int:
        """Outputs that wait to be fetched."""
        return len(self._stream)

    async def wait(self, limit_s: float) -> None:
        """Returns when there is something new to look at, or after `limit_s`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            # Not `wait_for`: before Python 3.12 it loses a cancellation that comes together with a result.
            await asyncio.wait([waiter], timeout=limit_s)
        finally:
            self._waiters.discard(waiter)


def id_of_input(call_id: str, idx: int) -> str:
    """The id of an input of a call."""
    return f"in-{call_id[3:]}:{idx}"
