"""One call of a web function: what its client sends, what the app answers. Runs on: laptop.

Owns the two streams between a request and its input, and what a client hears when there is no answer. Memory: 32 MiB in
each direction; whoever sends more waits. A call outlives its request where Modal's does: after a redirect to its
result, and while the app has work left after its response.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from modalbatch.engines.local.calls.call import Call
from modalbatch.engines.local.calls.stream import DataStream
from modalbatch.engines.local.function import Function
from modalbatch.engines.local.web import asgi
from modalbatch.engines.local.wire import LONG_POLL_S, SUCCESS, TERMINATED, TIMEOUT, Message, proto

if TYPE_CHECKING:
    from modalbatch.engines.local.engine import Engine


class Exchange:
    """A call of a web function, as seen from the connection that waits for it."""

    def __init__(self, engine: Engine, call: Call) -> None:
        self._engine = engine
        self.call = call
        #: How the call ended; none while it runs.
        self.result: Message | None = None
        self._n_taken = call.open_stream().n_confirmed

    @classmethod
    def begin(
        cls, engine: Engine, function: Function, method_name: str, scope: dict[str, Any], first: Message
    ) -> Exchange:
        """A new call with its first message, which the runtime expects at once. Raises: RESOURCE_EXHAUSTED."""
        data = asgi.web_input(scope, method_name)
        function.pool.gate.admit([proto.FunctionPutInputsItem(input=data)], is_sync=True)
        call = engine.calls.add(function, is_sync=True, is_map=False)
        call.body = DataStream()
        exchange = cls(engine, call)
        exchange.put(first)
        function.pool.add(call.add(0, data))
        return exchange

    @property
    def is_taken(self) -> bool:
        """Whether some of the answer has gone to somebody else, so that the rest of it is of no use."""
        return self.call.open_stream().n_confirmed > self._n_taken

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While somebody waits for the answer: a call that nobody waits for is cancelled within two minutes."""
        with self._engine.calls.callers.hears(self.call):
            yield

    # -- to the app

    def put(self, message: Message) -> None:
        """Sends a message to the app."""
        body = self.call.body
        assert body is not None
        body.put([asgi.chunk(body.n_put + 1, message)])
        self.call.wake()

    async def has_room(self) -> None:
        """Returns when the app has read enough of what was sent."""
        while self.call.body is not None and self.call.body.is_full and self.result is None:
            await self.call.wait(LONG_POLL_S)

    # -- from the app

    def take(self) -> Message | None:
        """The next message of the app, if it is here; else `result` says whether there can be another one."""
        stream = self.call.open_stream()
        chunk = stream.after(self._n_taken)
        if chunk is not None:
            self._n_taken += 1
            message = proto.Asgi.FromString(self._data(chunk))
            stream.confirm(self._n_taken)
            self.call.wake()
            return message
        outputs, _ = self.call.due()
        if outputs:
            self.result = outputs[0].result
        return None

    async def next(self) -> Message | None:
        """The next message of the app; none when the call is over."""
        while (message := self.take()) is None and self.result is None:
            await self.call.wait(LONG_POLL_S)
        return message

    def _data(self, chunk: Message) -> bytes:
        if not chunk.data_blob_id:
            return bytes(chunk.data)
        path = self._engine.blobs.path(chunk.data_blob_id)
        data = path.read_bytes()
        path.unlink()
        return data

    # -- the end

    def finish(self, goodbye: Message) -> None:
        """The response is complete; the app may have work left, of which nobody hears."""
        self.put(goodbye)
        self._engine.run(self._see_out_waiting)

    def leave(self, goodbye: Message) -> None:
        """The client is gone: an input that waits is dropped, one that runs is told, and cancelled if it goes on."""
        self.put(goodbye)
        if not any(item.started_at for item in self.call.inputs.values()):
            self.call.is_cancelled = True
            self.call.function.pool.cancel(self.call, kill=False)
        self._engine.run(self._see_out)

    async def _see_out_waiting(self) -> None:
        with self.waiting():
            await self._see_out()

    async def _see_out(self) -> None:
        """Drops what is still said, so that nobody waits for a reader."""
        while self.result is None:
            await self.next()
        self._engine.calls.drop(self.call)

    def failure(self) -> tuple[int, str]:
        """Status and text for a client whose call has ended without an answer, in Modal's words."""
        assert self.result is not None
        self._engine.calls.drop(self.call)
        if not self.call.function.app.is_live:
            return 404, "app for invoked web endpoint is stopped"
        if self.result.status == TIMEOUT:
            return 500, "internal error: function execution timed out"
        if self.result.status == TERMINATED:
            return 500, "internal error: function was terminated by signal"
        if self.result.status == SUCCESS:
            return 500, "internal error: the app has ended without a response"
        return 500, f"internal error: status Failure: {self.result.exception}"


async def cancel(task: asyncio.Task[None]) -> None:
    """Ends a task that belongs to a request."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
