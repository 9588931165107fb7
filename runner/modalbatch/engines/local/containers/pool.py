"""The containers of one function and the inputs that wait for them. Runs on: laptop.

Owns scheduling: when a container starts and stops, who gets the next input, what a crash, a timeout or a cancellation
means for the inputs it hit. Refuses to count across functions: a driver that waits for its workers must never hold the
slot that they need.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modalbatch.engines.local.calls.call import Call, Input
from modalbatch.engines.local.calls.limit import Gate
from modalbatch.engines.local.calls.waiting import Waiting
from modalbatch.engines.local.containers.burst import Burst
from modalbatch.engines.local.containers.container import Container, Reason
from modalbatch.engines.local.containers.crash import CrashLoop
from modalbatch.engines.local.faults.fault import Faults
from modalbatch.engines.local.function import Function
from modalbatch.engines.local.schedules.clock import Clock
from modalbatch.engines.local.wire import (
    FAILURE,
    SUCCESS,
    TERMINATED,
    TIMEOUT,
    Message,
    Result,
    failure,
    message,
    mint_id,
    proto,
)

#: How long an idle container may take for its exit handlers, and a busy one to notice SIGINT.
EXIT_GRACE_S, INTERRUPT_GRACE_S = 10.0, 2.0
#: What Modal gives a container that leaves because there is no work.
_DRAIN_GRACE_S = 30.0
_DEFAULT_STARTUP_S = 300


@dataclass(slots=True, eq=False)
class _Waiter:
    """A container that asked for inputs when there were none."""

    container: Container
    limit: int
    inputs: asyncio.Future[list[Input]]


class Pool:
    """Scheduler of one function."""

    def __init__(
        self,
        function: Function,
        n_cores: int,
        launch: Callable[[Container], None],
        clock: Clock,
        faults: Faults | None = None,
    ) -> None:
        self._function = function
        self._n_cores = n_cores
        self._launch = launch
        self._clock = clock
        self._faults = faults
        self.gate = Gate(function.name, self, clock.monotonic)
        self._pending = Waiting()
        self._waiters: list[_Waiter] = []
        self.burst = Burst(lambda: (self.n_running + self.n_pending, self.limit))
        self.containers: set[Container] = set()
        self._crashes = CrashLoop(clock, self.pump)
        #: What inputs fail with while an ephemeral app pauses.
        self._broken: Message | None = None

    @property
    def n_pending(self) -> int:
        """Inputs that wait for a container."""
        return len(self._pending)

    @property
    def n_pending_sync(self) -> int:
        """Those of them whose callers wait."""
        return self._pending.n_sync

    @property
    def n_running(self) -> int:
        """Inputs that run."""
        return sum(len(container.running) for container in self.containers)

    @property
    def n_free(self) -> int:
        """Inputs that containers which are up could take at once."""
        n_slots = self._function.n_slots
        ready = [container for container in self.containers if container.is_ready and not container.is_draining]
        return sum(max(0, n_slots - len(container.running)) for container in ready)

    @property
    def limit(self) -> int:
        """The most containers at a time: what the app allows, on this machine's cores."""
        return max(1, min(self._function.max_containers or self._n_cores, self._n_cores))

    # -- work in

    def add(self, item: Input, *, first: bool = False) -> None:
        """Queues an input; `first` for one that lost its container."""
        if not self._function.app.is_live or item.call.is_cancelled:
            self.finish(item, Result(status=TERMINATED, exception="the app was stopped"))
        elif self._broken is not None and self._crashes.is_pausing and self._fails_at_once(item):
            self.finish(item, self._broken, data_format=0)
        elif self._faults is None or not self._faults.delays(item, self.add):
            (self._pending.appendleft if first else self._pending.append)(item)
            self.pump()

    def pump(self) -> None:
        """Hands waiting inputs to waiting containers, and starts containers for the rest."""
        self.burst.tell()
        while self._pending and self._waiters:
            # The least busy one first: a neighbour's second input would wait there for the first.
            waiter = min(self._waiters, key=lambda waiter: len(waiter.container.running))
            self._waiters.remove(waiter)
            if not waiter.inputs.done() and not waiter.container.is_draining:
                waiter.inputs.set_result(self._take(waiter.container, waiter.limit))
        if not self._function.app.is_live or self._crashes.is_pausing:
            return
        wanted = self._wanted()
        for container in [c for c in self.containers if c.is_held][: max(0, wanted - self._n_live())]:
            self._release(container)
        for _ in range(min(wanted - self._n_live(), self.limit - len(self.containers))):
            self._release(self._start())

    def keep_warm(self) -> None:
        """Starts the containers that the app wants without work."""
        if self._function.app.is_live:
            for _ in range(min(self._function.min_containers, self.limit) - self._n_live()):
                self._release(self._start())

    def prestart(self) -> None:
        """Starts a container that stops short of user code until there is a call."""
        if not self.containers:
            self._start().is_held = True

    def _wanted(self) -> int:
        busy = self.n_running + len(self._pending)
        if not busy:
            return self._function.min_containers
        wanted = -(-busy // self._function.n_slots) + self._function.buffer_containers
        return min(self.limit, max(wanted, self._function.min_containers)) if self._pending else 0

    def _n_live(self) -> int:
        return sum(not (c.is_draining or c.is_held) for c in self.containers)

    def _start(self) -> Container:
        container = Container(mint_id("ta"), self._function)
        self.containers.add(container)
        self._launch(container)
        return container

    def _release(self, container: Container) -> None:
        definition = self._function.definition
        limit_s = definition.startup_timeout_secs or definition.timeout_secs or _DEFAULT_STARTUP_S
        container.startup_timer = asyncio.get_running_loop().call_later(limit_s, self._give_up_start, container)
        self._function.tally.count("start")
        container.release()

    def _give_up_start(self, container: Container) -> None:
        if not container.is_ready:
            container.kill(Reason.STARTUP)

    # -- work out

    async def next_inputs(self, container: Container, limit: int, linger_s: float) -> list[Input]:
        """Inputs for a container that asks; empty when it should leave."""
        container.is_ready = True
        self._crashes.start()
        self._broken = None
        inputs = self._take(container, limit)
        while not inputs and not container.is_draining:
            waiter = _Waiter(container, limit, asyncio.get_running_loop().create_future())
            self._waiters.append(waiter)
            try:
                inputs = await asyncio.wait_for(waiter.inputs, self._function.idle_limit_s)
            except asyncio.TimeoutError:
                if not container.running and self._n_live() > self._function.min_containers:
                    break
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        if inputs and len(inputs) < limit and linger_s:
            await asyncio.sleep(linger_s)
            inputs += self._take(container, limit - len(inputs))
        if not inputs:
            self._drain(container, _DRAIN_GRACE_S)
        return inputs

    def _take(self, container: Container, limit: int) -> list[Input]:
        taken: list[Input] = []
        kept: list[Input] = []
        while self._pending and len(taken) < limit and not container.is_draining:
            item = self._pending.popleft()
            if self._faults is not None and self._faults.keeps_from(container, item, kept):
                continue
            item.started_at = self._clock.now()
            container.running[item.id] = item
            limit_s = self._function.definition.timeout_secs
            if limit_s:
                item.timer = asyncio.get_running_loop().call_later(limit_s, self._time_out, container, item)
            taken.append(item)
            if self._faults is not None:
                self._faults.delivered(container, item, self.add)
        for item in reversed(kept):
            self._pending.appendleft(item)
        return taken

    def put_output(self, container: Container, output: Message) -> None:
        """Takes a result that a container reports."""
        if self._faults is not None and self._faults.swallows(container, output):
            return
        item = container.running.pop(output.input_id, None)
        self._crashes.succeed()
        self.burst.tell()
        if item is not None:
            self.finish(item, output.result, data_format=output.data_format, container_id=container.id)

    def finish(
        self, item: Input, result: Message, *, data_format: int = proto.DATA_FORMAT_PICKLE, container_id: str = ""
    ) -> None:
        """Ends an attempt: its result goes to the caller, or it is tried again under the function's retry policy."""
        item.stop_timer()
        call = item.call
        n_retries = self._function.definition.retry_policy.retries
        may_retry = result.status not in (SUCCESS, TERMINATED) and item.retry < n_retries and not call.is_cancelled
        if may_retry and not call.is_sync:
            delay_s = self._function.retry_delay_s(item.retry)
            item.retry += 1
            asyncio.get_running_loop().call_later(delay_s, self.add, item)
            return
        if not may_retry:
            call.inputs.pop(item.id, None)
            self._function.tally.count(result.status)
        call.emit(
            message(
                proto.FunctionGetOutputsItem,
                result=result,
                idx=item.idx,
                input_id=item.id,
                data_format=data_format,
                task_id=container_id,
                input_started_at=item.started_at,
                output_created_at=self._clock.now(),
                # A map client drops outputs whose count is not its own as stale.
                retry_count=item.retry if call.is_sync else 0,
            )
        )

    # -- ends

    def _time_out(self, container: Container, item: Input) -> None:
        if item.id in container.running and not container.is_dead:
            container.culprit_id = item.id
            container.kill(Reason.TIMEOUT)

    def cancel(self, call: Call, *, kill: bool) -> None:
        """Ends a call's inputs: waiting ones now, running ones by interruption, or with `kill` by ending containers."""
        for item in self._pending.take(call):
            self.finish(item, Result(status=TERMINATED, exception="the call was cancelled"))
        for container in self.containers:
            input_ids = [item.id for item in container.running.values() if item.call.id == call.id]
            if input_ids and kill:
                container.kill(Reason.CANCEL)
            elif input_ids:
                container.cancel_inputs(input_ids)
                asyncio.get_running_loop().call_later(INTERRUPT_GRACE_S, self._insist, container, input_ids)

    def _insist(self, container: Container, input_ids: Iterable[str]) -> None:
        """Kills a container whose code ignored a cancellation, as blocked C code does."""
        if any(input_id in container.running for input_id in input_ids):
            container.kill(Reason.CANCEL)

    def on_exit(self, container: Container, code: int) -> None:
        """Settles everything about a container that has ended."""
        container.is_dead = True
        self.containers.discard(container)
        for timer in (container.startup_timer, container.silence_timer):
            if timer is not None:
                timer.cancel()
        if code and container.reason in (Reason.UNKNOWN, Reason.LOST):
            self._note_crash(container, code)
        victims, container.running = list(container.running.values()), {}
        # Before its inputs are queued again: that would start the next container at once.
        if not container.is_ready and container.reason not in (Reason.STOP, Reason.CANCEL):
            text = f"container failed to start: {container.reason.value or f'exit code {code}'}"
            self._count_failure(container.result or failure(text), is_start=True)
        elif victims and container.reason in (Reason.UNKNOWN, Reason.LOST):
            self._count_failure(failure(f"container exited with code {code} again and again"), is_start=False)
        for item in reversed(victims):
            item.stop_timer()
            self._settle(item, container, code)
        container.gone.set()
        self.pump()

    def _note_crash(self, container: Container, code: int) -> None:
        self._function.tally.count("crash")
        if container.result is None:
            why = f"was ended: {Reason.LOST.value}" if container.reason is Reason.LOST else f"exited with code {code}"
            self._function.app.log.write(f"Runner: container {container.id} {why}\n", task_id=container.id)

    def _settle(self, item: Input, container: Container, code: int) -> None:
        """Decides about an input whose container has ended under it."""
        if container.reason is Reason.TIMEOUT and item.id == container.culprit_id:
            limit_s = self._function.definition.timeout_secs
            self.finish(item, failure(f"input {item.id} hit its timeout of {limit_s}s", status=TIMEOUT))
        elif item.call.is_cancelled or not self._function.app.is_live:
            self.finish(item, Result(status=TERMINATED, exception="the input was cancelled"))
        elif item.call.is_begun:
            self.finish(item, failure("the container ended while it answered", exit_code=code & 0xFF))
        elif container.reason in (Reason.TIMEOUT, Reason.CANCEL, Reason.PREEMPT):  # or the neighbour of who was meant
            self.add(item, first=True)
        else:
            # Once for free, as after a preemption; a poison input must not take containers for ever. In a deployed app
            # it does, on Modal too: only the pauses get longer.
            item.n_crashes += 1
            if not self._fails_at_once(item) or (item.n_crashes % 2 and not self._function.build_id):
                self.add(item, first=True)
            else:
                text = f"container exited with code {code} while it ran the input"
                self.finish(item, failure(text, status=FAILURE, exit_code=code & 0xFF))

    def _count_failure(self, result: Message, *, is_start: bool) -> None:
        """Pauses after one failure too many; what waits in an ephemeral app fails then."""
        app = self._function.app
        if not app.is_live or not self._crashes.fail(is_start=is_start, is_deployed=bool(app.deployed_at)):
            if self._function.build_id:  # one failure is enough for who waits for an image
                self._fail_pending(result)
            return
        pause_s = self._crashes.pause()
        self._broken = result
        self._fail_pending(result)
        if app.deployed_at:
            said = "fail to start" if is_start else "crash"
            name = self._function.name
            app.log.write(f"modalbatch: containers of `{name}` {said} again and again: next try in {pause_s:g} s\n")

    def _fails_at_once(self, item: Input) -> bool:
        """Whether crashes count for an input: a deployed app's waits, unless it is a request over HTTP."""
        return not self._function.app.deployed_at or item.call.body is not None

    def _fail_pending(self, result: Message) -> None:
        for item in self._pending.take_if(self._fails_at_once):
            self.finish(item, result, data_format=0)

    def retire(self) -> None:
        """Lets every container end after what it does now: its definition is out of date."""
        self._crashes.reset()
        self._broken = None
        for container in list(self.containers):
            if container.is_held or not container.is_ready:
                container.kill(Reason.STOP)
            else:
                self._drain(container, 0.0)

    async def stop(self) -> None:
        """Ends every input and container of the function; exit handlers run where nothing else does."""
        for item in self._pending.take():
            self.finish(item, Result(status=TERMINATED, exception="the app was stopped"))
        containers = list(self.containers)
        for container in containers:
            await self._stop_one(container)
        for container in containers:
            await container.gone.wait()

    async def stop_container(self, container: Container) -> None:
        """Ends one container, as `stop` does."""
        await self._stop_one(container)
        await container.gone.wait()

    async def _stop_one(self, container: Container) -> None:
        loop = asyncio.get_running_loop()
        if container.is_held or not container.is_ready:
            container.kill(Reason.STOP)
        elif container.running:
            container.kill(Reason.STOP, signal.SIGINT)
            loop.call_later(INTERRUPT_GRACE_S, container.kill, Reason.STOP)
        else:
            self._drain(container, EXIT_GRACE_S)

    def _drain(self, container: Container, grace_s: float) -> None:
        """Makes a container leave when it next asks for inputs; with a grace it is killed after that."""
        container.is_draining = True
        if container.reason is Reason.UNKNOWN and not container.running:
            container.reason = Reason.STOP
        for waiter in [waiter for waiter in self._waiters if waiter.container is container]:
            self._waiters.remove(waiter)
            if not waiter.inputs.done():
                waiter.inputs.set_result([])
        if grace_s:
            asyncio.get_running_loop().call_later(grace_s, container.kill, Reason.STOP)
