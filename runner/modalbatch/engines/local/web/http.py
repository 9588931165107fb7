"""HTTP requests of a web function, one at a time. Runs on: laptop.

Owns Modal's limits on a request: 150 s until the response begins, then a redirect to where it can be fetched, and 4 GiB
of body. A response that breaks off breaks its connection, so that no client takes it for a whole one.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from modalbatch.engines.local.web import asgi
from modalbatch.engines.local.web.exchange import Exchange, cancel
from modalbatch.engines.local.wire import LONG_POLL_S, Message, proto

if TYPE_CHECKING:
    from aiohttp import web

    from modalbatch.engines.local.engine import Engine
    from modalbatch.engines.local.function import Function

#: Seconds until a client is sent to the address of the result.
_PATIENCE_S = 150.0
#: Largest body of a request.
MAX_BODY_BYTES = 4 << 30
#: Bytes of a body in one message.
_PIECE_BYTES = 256 << 10
#: Statuses whose responses have no body, whatever an app says.
_BARE = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_GONE = proto.Asgi(http_disconnect=proto.Asgi.HttpDisconnect())


def refuse(status: int, text: str) -> web.Response:
    """An answer of the engine's own, in the form of Modal's."""
    from aiohttp import web

    return web.Response(status=status, text=f"modal-http: {text}\n")


class HttpRequest:
    """A request and what becomes of it."""

    def __init__(self, engine: Engine, request: web.BaseRequest) -> None:
        self._engine = engine
        self._request = request
        self._is_late = False
        self._is_sent = True
        self._is_too_large = False

    async def start(self, function: Function, method_name: str) -> web.StreamResponse:
        """Answers by a new call."""
        request = self._request
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return self._too_large()
        # The first part of the body before the call: a container must not wait for a slow client.
        body = request.content.iter_chunked(_PIECE_BYTES)
        first = await anext(body, b"") if request.can_read_body else b""
        scope = asgi.request_scope("http", request)
        more = not request.content.at_eof()
        exchange = Exchange.begin(self._engine, function, method_name, scope, asgi.body_message(first, more=more))
        if not more:
            return await self._answer(exchange)
        self._is_sent = False
        sending = asyncio.ensure_future(self._send(exchange, body, len(first)))
        try:
            return await self._answer(exchange)
        finally:
            await cancel(sending)

    async def resume(self, exchange: Exchange) -> web.StreamResponse:
        """Answers by a call that has taken too long for its own request."""
        return await self._answer(exchange)

    async def _send(self, exchange: Exchange, body: Any, n_bytes: int) -> None:
        """Carries the rest of the body to the app; one that breaks off ends in a disconnection."""
        from aiohttp import ClientError, web

        try:
            async for piece in body:
                n_bytes += len(piece)
                if n_bytes > MAX_BODY_BYTES:
                    self._is_too_large = True
                    exchange.call.wake()
                    return
                await exchange.has_room()
                exchange.put(asgi.body_message(piece, more=True))
        except (ClientError, web.RequestPayloadError, ConnectionError):
            exchange.put(_GONE)
            return
        exchange.put(asgi.body_message(b"", more=False))
        self._is_sent = True
        exchange.call.wake()

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        timer = self._engine.clock.call_later(_PATIENCE_S, lambda: self._be_late(exchange))
        is_open = True
        try:
            with exchange.waiting():
                start = await self._begin(exchange)
                if start is None and exchange.result is None and not self._is_too_large and not exchange.is_taken:
                    is_open = False
                    return self._redirect(exchange)
                if start is None or start.WhichOneof("type") != "http_response_start":
                    return self._failure(exchange)
                response = await self._respond(exchange, start.http_response_start)
                if exchange.result is None:
                    exchange.finish(_GONE)
                else:
                    self._engine.calls.drop(exchange.call)
                is_open = False
                return response
        finally:
            timer.cancel()
            if is_open and exchange.result is None and not exchange.is_taken:
                exchange.leave(_GONE)

    def _be_late(self, exchange: Exchange) -> None:
        self._is_late = True
        exchange.call.wake()

    async def _begin(self, exchange: Exchange) -> Message | None:
        """The first message of the response; none where there is none, or too late."""
        while (message := exchange.take()) is None and exchange.result is None:
            if self._is_too_large or exchange.is_taken or (self._is_late and self._is_sent):
                return None
            await exchange.call.wait(LONG_POLL_S)
        return message

    async def _respond(self, exchange: Exchange, start: Message) -> web.StreamResponse:
        from aiohttp import web

        response = web.StreamResponse(status=start.status)
        for name, value in asgi.response_headers(start.headers):
            response.headers.add(name, value)
        response.headers["Modal-Function-Call-Id"] = exchange.call.id
        await response.prepare(self._request)
        is_bare = self._request.method == "HEAD" or start.status in _BARE
        while (message := await exchange.next()) is not None:
            if message.WhichOneof("type") != "http_response_body":
                continue
            if message.http_response_body.body and not is_bare:
                await response.write(message.http_response_body.body)
            if not message.http_response_body.more_body:
                await response.write_eof()
                return response
        if self._request.transport is not None:
            self._request.transport.abort()
        return response

    def _redirect(self, exchange: Exchange) -> web.StreamResponse:
        from aiohttp import web

        target = asgi.result_target(self._request.raw_path, exchange.call.id)
        return web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": target})

    def _failure(self, exchange: Exchange) -> web.StreamResponse:
        if self._is_too_large:
            return self._too_large()
        if exchange.result is None:
            return refuse(404, "invalid function call")
        return refuse(*exchange.failure())

    def _too_large(self) -> web.StreamResponse:
        return refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"request body is larger than {MAX_BODY_BYTES >> 30} GiB")
