"""WebSocket connections of a web function. Runs on: laptop.

Owns the handshake and the translation of messages; a connection is one input for as long as it lasts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from modalbatch.engines.local.web import asgi
from modalbatch.engines.local.web.exchange import Exchange, cancel
from modalbatch.engines.local.web.http import refuse
from modalbatch.engines.local.wire import SUCCESS, Message, proto

if TYPE_CHECKING:
    from aiohttp import web

    from modalbatch.engines.local.engine import Engine
    from modalbatch.engines.local.function import Function

#: Modal's limit on one message.
_MAX_MESSAGE_BYTES = 2 << 20
_NO_CODE, _INTERNAL_ERROR = 1005, 1011
_CONNECT = proto.Asgi(websocket_connect=proto.Asgi.WebsocketConnect())


async def serve(engine: Engine, request: web.BaseRequest, function: Function, method_name: str) -> web.StreamResponse:
    """Carries a connection from its handshake to its end."""
    scope = asgi.request_scope("websocket", request)
    exchange = Exchange.begin(engine, function, method_name, scope, _CONNECT)
    code = _NO_CODE
    try:
        with exchange.waiting():
            first = await exchange.next()
            if first is None:
                return refuse(*exchange.failure())
            if first.WhichOneof("type") != "websocket_accept":
                return refuse(403, "the app has not accepted the connection")
            socket = await _accept(request, first.websocket_accept)
            receiving = asyncio.ensure_future(_receive(exchange, socket))
            try:
                await _send(exchange, socket)
            finally:
                await cancel(receiving)
            code = socket.close_code or _NO_CODE
            return socket
    finally:
        if exchange.result is None:
            exchange.leave(_disconnected(code))


async def _accept(request: web.BaseRequest, accepted: Message) -> web.WebSocketResponse:
    from aiohttp import web

    protocols = [accepted.subprotocol] if accepted.subprotocol else []
    socket = web.WebSocketResponse(protocols=protocols, max_msg_size=_MAX_MESSAGE_BYTES)
    for name, value in asgi.response_headers(accepted.headers):
        socket.headers.add(name, value)
    await socket.prepare(request)
    return socket


async def _receive(exchange: Exchange, socket: web.WebSocketResponse) -> None:
    """From the client to the app, until the client closes."""
    from aiohttp import WSMsgType

    async for message in socket:
        await exchange.has_room()
        if message.type is WSMsgType.TEXT:
            exchange.put(proto.Asgi(websocket_receive=proto.Asgi.WebsocketReceive(text=message.data)))
        elif message.type is WSMsgType.BINARY:
            exchange.put(proto.Asgi(websocket_receive=proto.Asgi.WebsocketReceive(bytes=message.data)))
    exchange.put(_disconnected(socket.close_code or _NO_CODE))


async def _send(exchange: Exchange, socket: web.WebSocketResponse) -> None:
    """From the app to the client, until the app closes or ends."""
    while (message := await exchange.next()) is not None:
        kind = message.WhichOneof("type")
        if kind == "websocket_close":
            said = message.websocket_close
            await socket.close(code=said.code or 1000, message=said.reason.encode())
            return
        if kind == "websocket_send" and not socket.closed:
            said = message.websocket_send
            await (socket.send_str(said.text) if said.HasField("text") else socket.send_bytes(said.bytes))
    ended_well = exchange.result is not None and exchange.result.status == SUCCESS
    await socket.close(code=1000 if ended_well else _INTERNAL_ERROR)


def _disconnected(code: int) -> Message:
    return proto.Asgi(websocket_disconnect=proto.Asgi.WebsocketDisconnect(code=code))
