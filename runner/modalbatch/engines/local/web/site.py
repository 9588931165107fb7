"""The addresses of web functions. Runs on: laptop.

Owns one port on 127.0.0.1 per web function, so that an app's own absolute paths are true; who is let in; and when a
port is given back: with its function, its app or the engine. aiohttp is imported with the first web function.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from grpclib import GRPCError

from modalbatch.engines.local.function import App, Function, web_parts
from modalbatch.engines.local.web import asgi, port
from modalbatch.engines.local.web.exchange import Exchange
from modalbatch.engines.local.web.http import HttpRequest, refuse
from modalbatch.engines.local.web.token import ProxyTokens
from modalbatch.engines.local.web.websocket import serve as serve_websocket
from modalbatch.engines.local.wire import Message, proto

if TYPE_CHECKING:
    from aiohttp import web

    from modalbatch.engines.local.engine import Engine

#: Seconds in which open requests may come to an end when their app stops.
_END_GRACE_S = 2.0
#: Modal's limit on a request's head.
_MAX_HEAD_BYTES = 64 << 10


class Site:
    """A port that serves a function, or one method of a class."""

    def __init__(self, engine: Engine, function: Function, method_name: str, listener: socket.socket) -> None:
        self._engine = engine
        self.function = function
        self.method_name = method_name
        self.url = "http://{}:{}".format(*listener.getsockname())
        self._listener = listener
        self._runner: Any = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Serves; who has connected before is served too."""
        async with self._starting:
            if self._runner is not None:
                return
            from aiohttp import web

            runner = web.ServerRunner(
                web.Server(
                    self._serve,
                    access_log=None,
                    handler_cancellation=True,
                    auto_decompress=False,
                    max_line_size=_MAX_HEAD_BYTES,
                    max_field_size=_MAX_HEAD_BYTES,
                ),
                shutdown_timeout=_END_GRACE_S,
            )
            await runner.setup()
            await web.SockSite(runner, self._listener).start()
            self._runner = runner

    async def close(self) -> None:
        """Gives the port back; open requests end."""
        async with self._starting:
            if self._runner is not None:
                await self._runner.cleanup()
            self._listener.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        started_at = time.monotonic()
        try:
            response = await self._respond(request)
        except GRPCError as error:  # the gate's
            response = refuse(HTTPStatus.TOO_MANY_REQUESTS, str(error.message))
        path, _ = asgi.split_target(request.raw_path)
        took_ms = (time.monotonic() - started_at) * 1000
        # As output of the app, so that the limit of its log counts these lines.
        self.function.app.log.write(
            f"   {request.method} {path} -> {response.status} {response.reason}  (duration: {took_ms:.1f} ms)\n",
            stream=proto.FILE_DESCRIPTOR_STDOUT,
            function_id=self.function.id,
        )
        return response

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        app = self.function.app
        part = dict(web_parts(self.function.definition)).get(self.method_name)
        if not app.is_live or self.function.id not in app.function_ids.values() or part is None:
            return refuse(404, "app for invoked web endpoint is stopped")
        if part.webhook_config.requires_proxy_auth:
            refusal = self._engine.web.tokens.refusal(request.headers)
            if refusal is not None:
                return refuse(HTTPStatus.UNAUTHORIZED, refusal)
        if asgi.CALL_ID in request.query:
            return await self._resume(request, request.query[asgi.CALL_ID])
        try:
            function = self._bound(dict(request.query))
        except ValueError as error:
            return refuse(HTTPStatus.BAD_REQUEST, str(error))
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await serve_websocket(self._engine, request, function, self.method_name)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await HttpRequest(self._engine, request).start(function, self.method_name)

    def _bound(self, query: dict[str, str]) -> Function:
        """The function with the class parameters that the query gives. Raises: ValueError."""
        schema = self.function.definition.class_parameter_info.schema
        if not schema:
            return self.function
        params = asgi.class_parameters(schema, query)
        request = proto.FunctionBindParamsRequest(function_id=self.function.id, serialized_params=params)
        return self._engine.bind(self.function, request)

    async def _resume(self, request: web.BaseRequest, call_id: str) -> web.StreamResponse:
        call = self._engine.calls.find(call_id)
        if request.method not in ("GET", "HEAD"):
            return refuse(HTTPStatus.BAD_REQUEST, "bad redirect method")
        is_ours = call is not None and call.body is not None and call.function.app is self.function.app
        if call is None or not is_ours or call.function.name != self.function.name or call.open_stream().n_confirmed:
            return refuse(404, "invalid function call")
        return await HttpRequest(self._engine, request).resume(Exchange(self._engine, call))


class Web:
    """Every site of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sites: dict[tuple[str, str], Site] = {}
        self.tokens = ProxyTokens(engine.config.home / "proxy-tokens")

    def open(self, function: Function, definition: Message) -> None:
        """Gives a port to each part of a function that is on the web, and writes its URL into the definition."""
        for method_name, part in web_parts(definition):
            key = function.id, method_name
            site = self._sites.get(key)
            if site is None:
                listener = port.listen(self._ports(function.app, definition, method_name, part.webhook_config))
                site = self._sites[key] = Site(self._engine, function, method_name, listener)
            if part.web_url != site.url:
                part.web_url = site.url
                name = ".".join(filter(None, (definition.function_name.removesuffix(".*"), method_name)))
                function.app.tell_once(f"`{name}` is served at {site.url}")
            if part.webhook_config.requires_proxy_auth:
                self.tokens.ensure()
                function.app.tell_once(f"tokens for requires_proxy_auth are in {self.tokens.path}")

    def _ports(self, app: App, definition: Message, method_name: str, config: Message) -> list[int]:
        label = port.label(
            requested=config.requested_suffix,
            app=app.name,
            function=definition.function_name,
            method=method_name,
            is_ephemeral=app.state not in (proto.APP_STATE_INITIALIZING, proto.APP_STATE_DEPLOYED),
        )
        return port.preferred_ports(app.environment, label)

    async def start(self) -> None:
        """Serves at every port that was given."""
        for site in list(self._sites.values()):
            await site.start()

    async def close_unused(self, app: App) -> None:
        """Gives back the ports of what is not on the web any more."""
        current = set(app.function_ids.values())
        await self._close(
            key
            for key, site in self._sites.items()
            if site.function.app is app
            and (key[0] not in current or key[1] not in dict(web_parts(site.function.definition)))
        )

    async def close(self, app: App | None = None) -> None:
        """Gives back the ports of an app, or all."""
        await self._close(key for key, site in self._sites.items() if app is None or site.function.app is app)

    async def _close(self, keys: Iterator[tuple[str, str]]) -> None:
        sites = [self._sites.pop(key) for key in list(keys)]
        await asyncio.gather(*[site.close() for site in sites])
