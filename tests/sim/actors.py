"""Processes of a simulation: greenlets with an event loop and a death of their own, all in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from sim.world import World

NEVER = float("inf")


class Violation(Exception):
    """An invariant of `guarantees.md` section 4 does not hold."""


class Killed(BaseException):
    """`kill -9`: nothing that runs afterwards reaches the store."""


class Actor:
    """A process of the simulation: a driver or one attempt of a worker."""

    def __init__(self, world: World, kind: str, main: Callable[[Actor], None], weight: float) -> None:
        self.world, self.kind, self.weight = world, kind, weight
        self.name = f"{kind}-{world.next_number()}"
        self.started_s = world.time_s
        #: A driver that waits for answers or timers; infinite: for answers only.
        self.idle_until_s = 0.0
        #: As by SIGSTOP: it does not know of it.
        self.frozen_until_s = 0.0
        self.is_dead = False
        self.n_steps = 0
        #: Of a worker, while it may write.
        self.attempt = ""
        #: Of a driver: how it ended; what it was asked; units that its source has, by id; whether it is by itself.
        self.outcome: dict[str, Any] | None = None
        self.request: Any = None
        self.version = ""
        self.wanted: dict[str, Any] = {}
        self.is_alone = False
        #: Runs when the process is no more.
        self.at_end: Callable[[], None] = lambda: None
        self._main = main
        self.greenlet = greenlet(self._begin, parent=world.hub)

    def _begin(self) -> None:
        with suppress(Killed):
            self._main(self)
        self.is_dead = True

    @property
    def wakes_s(self) -> float:
        """When it can go on."""
        return max(self.idle_until_s, self.frozen_until_s)

    def pause(self) -> None:
        """Let others run. Raises `Killed` in a process that is no more."""
        if self.is_dead or getcurrent() is not self.greenlet:
            raise Killed
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            self.world.hub.switch()
        finally:
            asyncio._set_running_loop(loop)
        if self.is_dead:
            raise Killed

    def kill(self) -> None:
        if not self.is_dead:
            self.world.tell(f"{self.name} is killed")
            self.is_dead = True
            self.world.is_orderly &= self.kind != "driver"
            with suppress(Killed):  # one that has not begun ends at once
                self.greenlet.throw(Killed)
            self.at_end()


class Inline(Executor):
    """A pool without threads."""

    def __init__(self, n_threads: int = 1, name: str = "") -> None:
        pass

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done

    def map(self, call: Callable[..., Any], *iterables: Iterable[Any], **options: Any) -> Iterator[Any]:
        return map(call, *iterables)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


class ActorLoop(asyncio.BaseEventLoop):
    """An event loop that lives in a greenlet: where others would sleep, it lets other processes run."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self._actor, self._selector = actor, self
        self.set_exception_handler(lambda loop, context: None)

    def time(self) -> float:
        return self._actor.world.time_s

    def select(self, timeout: float | None) -> list[Any]:
        if timeout != 0:
            self._actor.idle_until_s = NEVER if timeout is None else self.time() + timeout
            self._actor.pause()
            self._actor.idle_until_s = 0.0
        return []

    def run_in_executor(self, executor: Any, call: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Here and now; whoever waits hears of it when the loop comes round, as from a thread."""
        future = self.create_future()
        try:
            self.call_soon(_resolve, future, call(*args), None)
        except Exception as error:
            self.call_soon(_resolve, future, None, error)
        return future

    def bury(self) -> None:
        """What a killed process leaves in this one: its tasks end without reaching the store."""
        for task in (tasks := asyncio.all_tasks(self)):
            task.cancel()
        with suppress(Killed):
            self.run_until_complete(_settled(tasks))
        self.close()

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        self._actor.idle_until_s = 0.0


def _resolve(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def _settled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
