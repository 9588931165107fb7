"""Real servers on loopback for the tests: S3 (moto) and a proxy that breaks what passes through it.

Import the fixtures where they are used: `from servers import s3_server, s3_bucket, fault_proxy`.
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>injected</Message></Error>'
_HOP_HEADERS = {"connection", "expect", "transfer-encoding", "content-length"}
_BLOCK_BYTES = 64 << 10


@dataclass
class Fault:
    """What happens to requests that match, `times` times (None: always)."""

    #: `status`: answer instead of the server; `reset`: cut before it is asked; `lose_reply`: after it has answered;
    #: `cut`: in the middle of the answer; `strip`: pass on without the header `header`.
    kind: str
    method: str | None = None
    path: str = ""
    times: int | None = 1
    status: int = 503
    code: str = "SlowDown"
    after_bytes: int = 0
    header: str = ""
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
                if is_due and fault.method in (None, request.command) and re.search(fault.path, request.path):
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
        if fault and fault.kind == "status":
            return self._answer(fault)
        upstream = http.client.HTTPConnection(*self.proxy.upstream, timeout=60)
        try:
            answer = self._forward(upstream, body, fault)
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
    ) -> http.client.HTTPResponse:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for key, value in self.headers.items():
            is_stripped = fault and fault.kind == "strip" and key.lower() == fault.header.lower()
            if key.lower() not in _HOP_HEADERS and not is_stripped:
                upstream.putheader(key, value)
        if body or self.command in ("PUT", "POST"):
            upstream.putheader("Content-Length", str(len(body)))
        upstream.endheaders(body or None)
        return upstream.getresponse()

    def _relay(self, answer: http.client.HTTPResponse, fault: Fault | None) -> None:
        self.send_response_only(answer.status, answer.reason)
        for key, value in answer.getheaders():
            if key.lower() not in ("connection", "transfer-encoding"):
                self.send_header(key, value)
        has_length = answer.getheader("Content-Length") is not None
        is_bodiless = self.command == "HEAD" or answer.status in (204, 304)
        data = b"" if is_bodiless or has_length else answer.read()
        if not has_length and not is_bodiless:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if is_bodiless:
            return None
        self.wfile.write(data)
        n_sent = 0
        while block := answer.read(_BLOCK_BYTES):
            if fault and fault.kind == "cut" and n_sent + len(block) > fault.after_bytes:
                self.wfile.write(block[: fault.after_bytes - n_sent])
                self.wfile.flush()
                fault.meanwhile()
                return self._reset()
            self.wfile.write(block)
            n_sent += len(block)
        return None

    def _answer(self, fault: Fault) -> None:
        body = _ERROR.format(fault.code).encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


@dataclass
class Bucket:
    """A bucket of its own for one test."""

    name: str
    endpoint_url: str

    @property
    def uri(self) -> str:
        return f"s3://{self.name}/"

    def client(self):
        """A plain boto3 client, for what the tests do behind the store's back."""
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint_url, region_name="us-east-1")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a moto server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket, and credentials for it in the environment."""
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket = Bucket(f"test-{uuid.uuid4().hex}", s3_server)
    bucket.client().create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture
def fault_proxy(s3_server: str) -> Iterator[FaultProxy]:
    """A proxy before the S3 server."""
    proxy = FaultProxy(s3_server)
    yield proxy
    proxy.close()
