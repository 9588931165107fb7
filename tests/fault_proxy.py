"""A proxy on loopback that breaks what passes through it. Knows HTTP, and nothing of the stores behind it."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
_HOP_HEADERS = {"connection", "expect", "transfer-encoding", "content-length"}
_BLOCK_BYTES = 64 << 10


@dataclass
class Fault:
    """What happens to requests that match, `times` times (None: always)."""

    #: Of the request:
    #: `status`: answer instead of the server; `reset`: cut before it is asked; `half`: pass on the first half of the
    #: body, then cut; `alter`: pass on with one byte of the body changed; `strip`: without the header `header` and the
    #: parameter of that name; `hold`: not at all, until the proxy is closed.
    #: Of the answer:
    #: `lose_reply`: cut instead of it; `cut`: in the middle of it; `shorten`: as if it were complete after
    #: `after_bytes`; `drip`: byte by byte.
    kind: str
    method: str | None = None
    path: str = ""
    times: int | None = 1
    status: int = 503
    code: str = "SlowDown"
    message: str = "injected"
    after_bytes: int = 0
    header: str = ""
    #: Whether it has begun, by the requests that came by before.
    when: Callable[[list[Seen]], bool] = lambda seen: True
    #: Done in the middle of the answer, before it is cut.
    meanwhile: Callable[[], object] = lambda: None
    n_hits: int = 0


@dataclass
class Seen:
    """One request that came by."""

    method: str
    path: str
    fault: str | None
    headers: dict[str, str] = field(default_factory=dict)


class FaultProxy:
    """A reverse proxy that keeps the Host header, so that signatures stay valid."""

    def __init__(self, upstream_url: str) -> None:
        parts = urlsplit(upstream_url)
        self.upstream = (parts.hostname or "", parts.port or 80)
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        #: Set when the proxy is closed; what is held waits for it.
        self.closed = threading.Event()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def add(self, kind: str, **what: object) -> Fault:
        """Break the next requests that match."""
        fault = Fault(kind, **what)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def pick(self, request: BaseHTTPRequestHandler) -> Fault | None:
        with self._lock:
            found = None
            for fault in self.faults:
                is_due = fault.times is None or fault.n_hits < fault.times
                is_meant = fault.method in (None, request.command) and re.search(fault.path, request.path)
                if is_due and is_meant and fault.when(self.seen):
                    fault.n_hits += 1
                    found = fault
                    break
            self.seen.append(
                Seen(
                    request.command,
                    request.path,
                    found and found.kind,
                    {k.lower(): v for k, v in request.headers.items()},
                )
            )
            return found

    def close(self) -> None:
        """Refuse connections from here on: the network is gone."""
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Broken connections are the point."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _serve(self) -> None:
        body = self._read_body()
        fault = self.proxy.pick(self)
        if fault and fault.kind == "reset":
            return self._reset()
        if fault and fault.kind == "hold":
            self.proxy.closed.wait()
            return self._reset()
        if fault and fault.kind == "status":
            return self._answer(fault)
        upstream = http.client.HTTPConnection(*self.proxy.upstream, timeout=60)
        try:
            answer = self._forward(upstream, body, fault)
            if answer is None:
                return self._reset()
            if fault and fault.kind == "lose_reply":
                answer.read()
                return self._reset()
            self._relay(answer, fault)
        finally:
            upstream.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(
        self, upstream: http.client.HTTPConnection, body: bytes, fault: Fault | None
    ) -> http.client.HTTPResponse | None:
        kind = fault.kind if fault else ""
        path = self.path
        if fault and kind == "strip":
            path = re.sub(rf"(?i)(?<=[?&]){fault.header}=[^&]*&?", "", path)
        if kind == "alter":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        upstream.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for key, value in self.headers.items():
            is_stripped = fault and kind == "strip" and key.lower() == fault.header.lower()
            if key.lower() not in _HOP_HEADERS and not is_stripped:
                upstream.putheader(key, value)
        if body or self.command in ("PUT", "POST"):
            upstream.putheader("Content-Length", str(len(body)))
        if kind == "half":
            upstream.endheaders(body[: len(body) // 2])
            return None
        upstream.endheaders(body or None)
        return upstream.getresponse()

    def _relay(self, answer: http.client.HTTPResponse, fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        is_bodiless = self.command == "HEAD" or answer.status in (204, 304)
        has_length = answer.getheader("Content-Length") is not None
        # What has no length, or is to get another one, is read first.
        data = answer.read() if not is_bodiless and (not has_length or kind == "shorten") else None
        if fault and data is not None and kind == "shorten":
            data = data[: fault.after_bytes]
        self.send_response_only(answer.status, answer.reason)
        for key, value in answer.getheaders():
            if key.lower() not in ("connection", "transfer-encoding") and (
                data is None or key.lower() != "content-length"
            ):
                self.send_header(key, value)
        if data is not None:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if data is not None:
            self.wfile.write(data)
        elif not is_bodiless:
            self._relay_body(answer, fault)

    def _relay_body(self, answer: http.client.HTTPResponse, fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        n_sent = 0
        while block := answer.read(1 if kind == "drip" else _BLOCK_BYTES):
            if fault and kind == "cut" and n_sent + len(block) > fault.after_bytes:
                self.wfile.write(block[: fault.after_bytes - n_sent])
                self.wfile.flush()
                fault.meanwhile()
                return self._reset()
            self.wfile.write(block)
            n_sent += len(block)
        return None

    def _answer(self, fault: Fault) -> None:
        body = _ERROR.format(fault.code, fault.message).encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("x-ms-error-code", fault.code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
