"""RPCs about what generators yield, and what the clients of web functions send. Runs on: laptop.

Owns the order of the two things that a caller reads at once: a call's result is held back until every chunk before it
is confirmed, so an exception never overtakes what was yielded.
"""

from __future__ import annotations

from collections.abc import Callable

from modalbatch.engines.local.calls.call import Call
from modalbatch.engines.local.calls.stream import DataStream
from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.services.app import Send
from modalbatch.engines.local.wire import LONG_POLL_S, Message, Peer, not_found, refused

#: Bytes after which a caller must confirm what it has: data that it leaves unread blocks its connection.
_MAX_UNCONFIRMED_BYTES = 4 << 20


class StreamService:
    """Chunks of data: from a generator to its caller, and from the client of a web function to its container."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def FunctionCallPutDataOut(self, request: Message, peer: Peer) -> None:
        """Takes chunks, and answers when there is room for more."""
        call = self._engine.calls.find(request.function_call_id)
        # Only a caller that waits reads what is yielded: the client has no way to come for it later.
        if call is None or call.is_cancelled or not call.is_sync:
            return
        stream = call.open_stream()
        stream.put(request.data_chunks)
        call.wake()
        while stream.is_full and not call.is_cancelled:
            await call.wait(LONG_POLL_S)

    async def FunctionCallGetDataOut(self, request: Message, peer: Peer, send: Send) -> None:
        """Streams chunks; its end asks the caller to come again, which confirms what it has."""
        call = self._engine.calls.get(request.function_call_id)
        stream = call.open_stream()
        self._confirm(call, request.last_index)
        await _send_chunks(call, stream, request.last_index, send, lambda: call.is_held_back)

    async def FunctionCallGetDataIn(self, request: Message, peer: Peer, send: Send) -> None:
        """Streams what an HTTP client sends. It is kept until there is much of it: another container may read again."""
        call = self._engine.calls.get(request.function_call_id)
        body = call.body
        if body is None:
            raise not_found(f"function call {call.id} is not one over HTTP")
        if request.last_index < body.n_confirmed:
            raise refused("the request is too large to be read again by another container")
        if body.is_full:
            body.confirm(request.last_index)
            call.wake()
        await _send_chunks(call, body, request.last_index, send, lambda: body.is_full)

    def _confirm(self, call: Call, number: int) -> None:
        for chunk in call.open_stream().confirm(number):
            if chunk.data_blob_id:
                self._engine.blobs.path(chunk.data_blob_id).unlink(missing_ok=True)
        call.wake()


async def _send_chunks(call: Call, stream: DataStream, sent: int, send: Send, is_over: Callable[[], bool]) -> None:
    """Sends chunks as they come, until the reader should come again to confirm what it has."""
    n_bytes = 0
    while True:
        while chunk := stream.after(sent):
            await send(chunk)
            sent, n_bytes = sent + 1, n_bytes + len(chunk.data)
            if n_bytes > _MAX_UNCONFIRMED_BYTES:
                return
        if is_over():
            return
        # Without a limit: a reader that has everything may take its time over it.
        await call.wait(LONG_POLL_S)
