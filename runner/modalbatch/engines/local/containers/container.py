"""One container as the engine sees it. Runs on: laptop.

Owns its state between the request to start it and its exit; starting is `launcher.py`'s, deciding is `pool.py`'s.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from modalbatch.engines.local.calls.call import Input
from modalbatch.engines.local.containers.guest_isolation import Bind
from modalbatch.engines.local.function import Function
from modalbatch.engines.local.wire import Message


class Reason(Enum):
    """Why the engine ended a container; UNKNOWN means that it ended by itself."""

    UNKNOWN = ""
    STOP = "stop"
    CANCEL = "cancel"
    PREEMPT = "preempted"
    TIMEOUT = "timeout"
    STARTUP = "startup took longer than startup_timeout"
    LOST = "it was not heard of for too long"


@dataclass(slots=True, eq=False)
class Container:
    """A process with a socket of its own, serving one function."""

    id: str
    function: Function
    #: Started ahead of calls: user code is not even imported until it is released.
    is_held: bool = False
    #: It was: what it sees of volumes may be older than the call that it was released for.
    was_held: bool = False
    running: dict[str, Input] = field(default_factory=dict)
    #: It has asked for inputs once: user code is imported and entered.
    is_ready: bool = False
    #: It gets no more inputs.
    is_draining: bool = False
    is_dead: bool = False
    #: Inputs that it was told to run at a time; 0: as many as it began with.
    concurrency: int = 0
    reason: Reason = Reason.UNKNOWN
    #: The input whose time limit ended it.
    culprit_id: str = ""
    #: What it said about a failed import or enter.
    result: Message | None = None
    #: Its last answered request for inputs, by idempotency key: an answer that was lost is given again.
    answered: tuple[str, Message | None] = ("", None)
    created_at: float = field(default_factory=time.time)
    #: Sends a signal to its first process; set once there is one.
    send_signal: Callable[[int], None] | None = None
    #: Mounts folders in it anew; set with `send_signal`.
    remount: Callable[[Sequence[Bind]], Awaitable[int]] | None = None
    released: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    startup_timer: asyncio.TimerHandle | None = None
    #: Ends it when it stays silent.
    silence_timer: asyncio.TimerHandle | None = None
    _cancelled: list[str] = field(default_factory=list)
    _cancelling: asyncio.Event = field(default_factory=asyncio.Event)

    def kill(self, reason: Reason, number: int = signal.SIGKILL) -> None:
        """Ends it by a signal; the first reason given is the one that counts."""
        if self.reason is Reason.UNKNOWN:
            self.reason = reason
        self.is_draining = True
        if self.send_signal is not None and not self.is_dead:
            self.send_signal(number)

    def expect_word(self, limit_s: float) -> None:
        """Counts it as lost unless this is called again within `limit_s`."""
        if self.silence_timer is not None:
            self.silence_timer.cancel()
        self.silence_timer = asyncio.get_running_loop().call_later(limit_s, self.kill, Reason.LOST)

    def release(self) -> None:
        """Lets a held container go on to user code."""
        self.was_held, self.is_held = self.was_held or self.is_held, False
        self.released.set()

    def cancel_inputs(self, input_ids: list[str]) -> None:
        """Tells the runtime to interrupt inputs."""
        self._cancelled += input_ids
        self._cancelling.set()

    async def cancelled_inputs(self, limit_s: float) -> list[str]:
        """Inputs to interrupt, as soon as there are any; empty after `limit_s`."""
        try:
            await asyncio.wait_for(self._cancelling.wait(), limit_s)
        except asyncio.TimeoutError:
            return []
        self._cancelling.clear()
        input_ids, self._cancelled = self._cancelled, []
        return input_ids
