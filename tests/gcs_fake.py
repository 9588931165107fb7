"""A fake of Google Cloud Storage at the level of requests, on loopback.

No server with conditional creation can be run here (`docs/unproven.md`). This one knows the few requests that
`stores/gcs.py` makes, in the form of the public JSON API, and remembers them; it proves what is sent and what becomes
of each answer, not how Google behaves.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from fault_proxy import FaultProxy


@dataclass
class Stored:
    data: bytes
    generation: int


class GcsFake:
    """Buckets of any name, each empty."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Stored]] = {}
        #: Session → bucket, query, metadata, bytes so far of an upload in pieces.
        self.uploads: dict[str, tuple[str, dict, dict, bytearray]] = {}
        #: Method and path with query of every request.
        self.seen: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.counter = itertools.count(1_700_000_000_000_000)
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: GcsFake

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True  # the client is gone: nothing of it is stored
            return
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        with self.fake.lock:
            self.fake.seen.append((self.command, self.path))
            try:
                self._route(parts.path, query, body)
            except _Refused as error:
                self._json({"error": {"code": error.status, "message": str(error), "errors": []}}, error.status)

    do_GET = do_PUT = do_POST = do_DELETE = _serve

    def _route(self, path: str, query: dict[str, str], body: bytes) -> None:
        found = re.fullmatch(r"(/upload|/download)?/storage/v1/b/([^/]+)/o(?:/(.+))?", path)
        if not found:
            raise _Refused(404, f"no such path: {path}")
        objects = self.fake.buckets.get(found[2])
        if objects is None:
            raise _Refused(404, "The specified bucket does not exist.")
        name = unquote(found[3] or "")
        if self.command == "PUT":
            self._piece(query["upload_id"], body)
        elif found[1] == "/upload" and query["uploadType"] == "multipart":
            metadata, data = self._multipart(body)
            self._store(found[2], query, metadata, data)
        elif found[1] == "/upload":
            session = f"session-{next(self.fake.counter)}"
            self.fake.uploads[session] = (found[2], query, json.loads(body), bytearray())
            host = self.headers["Host"]
            location = f"http://{host}{path}?uploadType=resumable&upload_id={session}"
            self._json({}, headers={"Location": location})
        elif not name:
            self._list(objects, query)
        elif self.command == "DELETE":
            self._object(objects, name, query)
            del objects[name]
            self._answer(b"", 204)
        elif found[1] == "/download" or query.get("alt") == "media":
            self._media(self._object(objects, name, query))
        else:
            self._json(_metadata(found[2], name, self._object(objects, name, query)))

    def _object(self, objects: dict[str, Stored], name: str, query: dict[str, str]) -> Stored:
        if name not in objects:
            raise _Refused(404, f"No such object: {name}")
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != objects[name].generation:
            raise _Refused(412, "At least one of the pre-conditions you specified did not hold.")
        return objects[name]

    def _multipart(self, body: bytes) -> tuple[dict, bytes]:
        boundary = re.search(r"boundary=[\"']?([^\"';]+)", self.headers["Content-Type"])[1].encode()
        pieces = body.split(b"--" + boundary)
        head, data = (piece.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for piece in pieces[1:3])
        return json.loads(head), data

    def _piece(self, session: str, body: bytes) -> None:
        bucket, query, metadata, data = self.fake.uploads[session]
        start, _, total = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers["Content-Range"]).groups()
        if start is not None and int(start) == len(data):
            data += body
        if total != "*" and len(data) == int(total):
            self._store(bucket, query, metadata, bytes(data))
        else:
            held = {"Range": f"bytes=0-{len(data) - 1}"} if data else {}
            self._answer(b"", 308, held)

    def _store(self, bucket: str, query: dict[str, str], metadata: dict, data: bytes) -> None:
        objects, name = self.fake.buckets[bucket], metadata.get("name") or query["name"]
        if query.get("ifGenerationMatch") == "0" and name in objects:
            raise _Refused(412, "At least one of the pre-conditions you specified did not hold.")
        if "md5Hash" in metadata and metadata["md5Hash"] != _md5(data):
            raise _Refused(400, "Provided MD5 hash does not match calculated MD5 hash.")
        objects[name] = Stored(data, next(self.fake.counter))
        self._json(_metadata(bucket, name, objects[name]))

    def _list(self, objects: dict[str, Stored], query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        start = max(query.get("startOffset", ""), query.get("pageToken", ""))
        keys: list[tuple[str, bool]] = []
        for name in sorted(objects, key=str.encode):
            rest = name[len(prefix) :] if name.startswith(prefix) else None
            if rest is None:
                continue
            is_folder = bool(delimiter) and delimiter in rest
            key = prefix + rest[: rest.index(delimiter) + 1] if is_folder else name
            if key.encode() >= start.encode() and (key, is_folder) not in keys:
                keys.append((key, is_folder))
        page = keys[: int(query.get("maxResults", 1000))]
        answer: dict = {
            "items": [_metadata("b", key, objects[key]) for key, is_folder in page if not is_folder],
            "prefixes": [key for key, is_folder in page if is_folder],
        }
        if len(keys) > len(page):
            answer["nextPageToken"] = keys[len(page)][0]
        self._json(answer)

    def _media(self, stored: Stored) -> None:
        data, headers, status = stored.data, {"x-goog-generation": str(stored.generation)}, 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start, end = int(wanted[1]), int(wanted[2] or len(data))
            if start >= len(data):
                raise _Refused(416, "Requested range not satisfiable")
            headers["Content-Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
            data, status = data[start : end + 1], 206
        else:
            headers["X-Goog-Hash"] = f"md5={_md5(data)}"
        self._answer(data, status, headers)

    def _json(self, data: dict, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._answer(json.dumps(data).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _answer(self, body: bytes, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _metadata(bucket: str, name: str, stored: Stored) -> dict:
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "size": str(len(stored.data)),
        "generation": str(stored.generation),
        "metageneration": "1",
        "updated": "2026-01-02T03:04:05.678Z",
        "md5Hash": _md5(stored.data),
    }


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


@pytest.fixture
def gcs_fake() -> Iterator[GcsFake]:
    """The fake, with a bucket `lake`."""
    fake = GcsFake()
    fake.buckets["lake"] = {}
    yield fake
    fake.close()


@pytest.fixture
def gcs_proxy(gcs_fake: GcsFake) -> Iterator[FaultProxy]:
    """A proxy before it."""
    proxy = FaultProxy(gcs_fake.url)
    yield proxy
    proxy.close()
