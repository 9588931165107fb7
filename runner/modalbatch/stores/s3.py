"""Objects of S3 and of stores that speak it. Runs on: both.

Owns write-once creation by `If-None-Match`, reading pinned by `If-Match`, uploads with checksums. Refuses a store that
overwrites where it was told not to (`probe`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from modalbatch.errors import ModalbatchError, UnavailableError
from modalbatch.job import Credentials
from modalbatch.stores import Entry
from modalbatch.stores.listing import Item, in_byte_order, pruned
from modalbatch.stores.object_store import ObjectStore
from modalbatch.stores.s3_client import error_status, make_client, translate
from modalbatch.stores.write_once import (
    Refusal,
    create_once,
    create_unchecked,
    judge_status,
    overwrites,
    prove_write_once,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: Larger files go in parts.
_SINGLE_BYTES = 64 << 20
#: Reads are multiples of this, so that smart_open never asks for more than was asked of us, rounded up.
_BLOCK_BYTES = 256 << 10


class S3Store(ObjectStore):
    """Objects below one prefix of a bucket."""

    def __init__(
        self,
        uri: str,
        *,
        endpoint_url: str | None = None,
        credentials: Credentials | None = None,
        is_conditional: bool = True,
        sleep: Callable[[float], None] = time.sleep,
        page_count: int = 1000,
        n_tries: int | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """`is_conditional`: whether to ask for write-once creation.

        `page_count`: keys of one listing or delete request, at most 1,000. `n_tries`: of a request that fails, by
        default AWS_MAX_ATTEMPTS or 5. `timeout_s`: how long an answer may stall.
        """
        super().__init__(uri, is_conditional=is_conditional, sleep=sleep, page_count=page_count)
        self._client: S3Client = make_client(
            endpoint_url, credentials or Credentials(), n_tries=n_tries, timeout_s=timeout_s
        )

    def list(self, prefix: str = "", *, descend: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        """Objects in byte order, a page a request. After `descend` has said yes once, it is asked no more."""
        return pruned(partial(self._items, prefix), descend)

    def _items(self, prefix: str, delimiter: str, after: str) -> Iterator[Item]:
        request: dict[str, Any] = {"Bucket": self._container, "Prefix": self._prefix + prefix}
        request["PaginationConfig"] = {"PageSize": self._page_count}
        if delimiter:
            request["Delimiter"] = delimiter
        if after:
            request["StartAfter"] = self._prefix + after
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(**request))
        n_root = len(self._prefix)
        while True:
            try:
                page = next(pages, None)
            except _errors() as error:
                raise self._translate(error, "list", prefix) from error
            if page is None:
                return
            found: list[Item] = [(item["Prefix"][n_root:], None) for item in page.get("CommonPrefixes", [])]
            for item in page.get("Contents", []):
                key = item["Key"]
                found.append((key[n_root:], self._entry(key, item["Size"], item["LastModified"], item["ETag"])))
            yield from in_byte_order(found)

    def stat(self, name: str) -> Entry | None:
        """One HEAD request."""
        try:
            head = self._client.head_object(Bucket=self._container, Key=self._prefix + name)
        except _errors() as error:
            if error_status(error) == 404:
                return None
            raise self._translate(error, "read", name) from error
        return self._entry(self._prefix + name, head["ContentLength"], head["LastModified"], head["ETag"])

    def _entry(self, key: str, size_bytes: int, modified: datetime, etag: str) -> Entry:
        etag = etag.strip('"')
        return Entry(key[len(self._prefix) :], size_bytes, modified.timestamp(), etag, etag)

    def read(self, name: str) -> bytes:
        """One GET request; again where its body breaks."""
        with self.open(name) as stream:
            return stream.read()

    def open(self, name: str, *, start: int = 0, end: int | None = None, pin: str = "") -> BinaryIO:
        """The bytes [start, end) through smart_open, which reconnects; each request carries the pin."""
        return cast("BinaryIO", _Stream(self, name, start, end, pin))

    def _reader(self, name: str, start: int, chunk_bytes: int | None, pin: str) -> Any:
        """smart_open's reader of an object from an offset on; requests of at most `chunk_bytes`."""
        from smart_open import s3

        pinned = {"S3.Client.get_object": {"IfMatch": f'"{pin}"'}} if pin else {}
        reader: Any = s3.open(
            self._container,
            self._prefix + name,
            "rb",
            client=self._client,
            client_kwargs=pinned,
            buffer_size=_BLOCK_BYTES,
            range_chunk_size=chunk_bytes,
            defer_seek=True,
        )
        try:
            reader.seek(start)
        except BaseException:
            reader.close()
            raise
        return reader

    def create(self, name: str, data: bytes) -> bool:
        """PUT with `If-None-Match: *`. A refusal or a lost answer is settled by reading the object back."""
        if not self.has_conditional_create:
            return create_unchecked(self, name, data)
        request: dict[str, Any] = {
            "Bucket": self._container,
            "Key": self._prefix + name,
            "Body": data,
            "IfNoneMatch": "*",
            "ContentMD5": _base64(hashlib.md5(data, usedforsecurity=False).digest()),
        }
        return create_once(
            data,
            put=lambda: self._client.put_object(**request),
            read=lambda: self.read(name),
            errors=_errors(),
            judge=self._judge,
            translate=lambda error: self._translate(error, "write", name),
            sleep=self._sleep,
        )

    def _judge(self, error: Exception) -> Refusal:
        status = error_status(error)
        if status == 501:
            raise overwrites(self.uri, "If-None-Match") from error
        # 304 instead of 412 was once MinIO's answer.
        return Refusal.TAKEN if status == 304 else judge_status(status)

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """Upload with a SHA-256 that the store checks; above 64 MiB in parts, each with its own."""
        size_bytes = path.stat().st_size
        try:
            if size_bytes <= _SINGLE_BYTES:
                is_checked = self._put_single(name, path, sha256)
            else:
                is_checked = self._put_parts(name, path)
        except _errors() as error:
            raise self._translate(error, "write", name) from error
        if not is_checked and not self._is_stored(name, path, size_bytes, sha256):
            with suppress(ModalbatchError):
                self.delete([name])
            raise UnavailableError(
                f"`{self.uri}{name}` was not stored as it was sent", hint="run `apply` again, or check the store"
            )
        path.unlink()

    def _is_stored(self, name: str, path: Path, size_bytes: int, sha256: str) -> bool:
        """Where the store did not compare: by size and ETag, which nearly everywhere is the MD5 of what was sent at
        once; where it is not, by what can be read back."""
        entry = self.stat(name)
        if entry is None or entry.size_bytes != size_bytes:
            return False
        if size_bytes > _SINGLE_BYTES:
            return True
        with path.open("rb") as body:
            if entry.identity == _hex_digest(body, hashlib.md5(usedforsecurity=False)):
                return True
        with self.open(name, pin=entry.pin) as stored:
            return _hex_digest(stored, hashlib.sha256()) == sha256

    def _put_single(self, name: str, path: Path, sha256: str) -> bool:
        """One PUT; whether the store says that it saw the checksum."""
        checksum = _base64(binascii.unhexlify(sha256))
        with path.open("rb") as body:
            answer = self._client.put_object(
                Bucket=self._container, Key=self._prefix + name, Body=body, ChecksumSHA256=checksum
            )
        return answer.get("ChecksumSHA256") == checksum

    def _put_parts(self, name: str, path: Path) -> bool:
        from boto3.exceptions import S3UploadFailedError
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=_SINGLE_BYTES, multipart_chunksize=32 << 20, max_concurrency=4)
        try:
            self._client.upload_file(
                str(path),
                self._container,
                self._prefix + name,
                ExtraArgs={"ChecksumAlgorithm": "SHA256"},
                Config=config,
            )
        except S3UploadFailedError as error:
            cause = error.__context__
            raise self._translate(cause if isinstance(cause, Exception) else error, "write", name) from error
        return False

    def replace(self, name: str, data: bytes) -> None:
        """One PUT."""
        md5 = _base64(hashlib.md5(data, usedforsecurity=False).digest())
        try:
            self._client.put_object(Bucket=self._container, Key=self._prefix + name, Body=data, ContentMD5=md5)
        except _errors() as error:
            raise self._translate(error, "write", name) from error

    def delete(self, names: Iterable[str]) -> None:
        """A page of objects a request."""
        batch: list[Any] = []
        for name in names:
            batch.append({"Key": self._prefix + name})
            if len(batch) == self._page_count:
                self._delete_batch(batch)
                batch = []
        if batch:
            self._delete_batch(batch)

    def _delete_batch(self, batch: Sequence[Any]) -> None:
        try:
            answer = self._client.delete_objects(Bucket=self._container, Delete={"Objects": batch, "Quiet": True})
        except _errors() as error:
            raise self._translate(error, "delete", "") from error
        for failed in answer.get("Errors", []):
            if failed.get("Code") != "NoSuchKey":
                raise UnavailableError(
                    f"cannot delete `s3://{self._container}/{failed.get('Key')}`: {failed.get('Code')}",
                    hint="check that the credentials may delete objects there",
                )

    def sweep_unfinished(self, older_than_s: float, is_ours: Callable[[str], bool]) -> int:
        """Abort uploads in parts that nobody will finish: they are billed and never seen. Others' are left alone."""
        n_aborted = 0
        now = datetime.now(timezone.utc)
        try:
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._container, Prefix=self._prefix
            )
            for page in pages:
                for upload in page.get("Uploads", []):
                    is_old = (now - upload["Initiated"]).total_seconds() > older_than_s
                    if is_old and is_ours(upload["Key"][len(self._prefix) :]):
                        self._client.abort_multipart_upload(
                            Bucket=self._container, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        n_aborted += 1
        except _errors() as error:
            # A right of its own (`s3:ListBucketMultipartUploads`), which nothing else needs.
            if error_status(error) not in (403, 404, 405, 501):
                raise self._translate(error, "list uploads of", "") from error
        return n_aborted

    def probe(self) -> None:
        """Create one name twice: proves access, and that the store keeps the first."""
        prove_write_once(self, "If-None-Match")

    def _explain(self, error: Exception, verb: str, uri: str) -> ModalbatchError:
        return translate(error, verb, uri)


class _Stream(io.RawIOBase):
    """A range of an object. smart_open reconnects where a body broke, to the pinned object only."""

    def __init__(self, store: S3Store, name: str, start: int, end: int | None, pin: str) -> None:
        super().__init__()
        self._store, self._name, self._end, self._pin = store, name, end, pin
        self._position = start
        self._reader: Any = None
        self._block = memoryview(b"")
        # An object that is not there is known at once, as it is of a file.
        if end is None or start < end:
            self._open()

    def _open(self) -> None:
        chunk_bytes = None
        if self._end is not None:
            # smart_open fills its buffer to the brim: with whole blocks it never opens a request behind the range.
            chunk_bytes = -(-(self._end - self._position) // _BLOCK_BYTES) * _BLOCK_BYTES
        try:
            self._reader = self._store._reader(self._name, self._position, chunk_bytes, self._pin)
        except _errors() as error:
            raise self._store._translate(error, "read", self._name) from error

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        if not self._block:
            self._block = memoryview(self._next_block())
        n_bytes = min(len(buffer), len(self._block))
        buffer[:n_bytes] = self._block[:n_bytes]
        self._block = self._block[n_bytes:]
        self._position += n_bytes
        return n_bytes

    def _next_block(self) -> bytes:
        if self._reader is None or (self._end is not None and self._position >= self._end):
            return b""
        try:
            block: bytes = self._reader.read(_BLOCK_BYTES)
        except _errors() as error:
            raise self._store._translate(error, "read", self._name) from error
        return block if self._end is None else block[: self._end - self._position]

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self._reader is not None:
                self._reader.close()


def _errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError, OSError)


def _hex_digest(stream: BinaryIO, digest: hashlib._Hash) -> str:
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
