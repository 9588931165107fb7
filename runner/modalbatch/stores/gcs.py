"""Objects of one bucket of Google Cloud Storage. Runs on: both.

Owns write-once creation by `ifGenerationMatch=0`, reading pinned to a generation, uploads whose MD5 the store compares.
Refuses a store that overwrites where it was told not to (`probe`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from modalbatch.errors import ModalbatchError, NotFoundError
from modalbatch.job import Credentials
from modalbatch.stores import Entry
from modalbatch.stores.gcs_client import error_status, is_no_bucket, make_bucket, translate
from modalbatch.stores.listing import Item, in_byte_order, pruned
from modalbatch.stores.object_store import ObjectStore
from modalbatch.stores.range_stream import Block, RangeStream
from modalbatch.stores.write_once import Refusal, create_once, create_unchecked, judge_status, prove_write_once

#: Pieces of an upload of more than 8 MiB; a broken one is sent again.
_PIECE_BYTES = 32 << 20
_FIELDS = "items(name,size,updated,generation),prefixes,nextPageToken"
_CONNECT_S = 10.0
_N_DELETES = 8


class GcsStore(ObjectStore):
    """Objects below one prefix of a bucket."""

    def __init__(
        self,
        uri: str,
        *,
        endpoint_url: str | None = None,
        credentials: Credentials | None = None,
        is_conditional: bool = True,
        sleep: Callable[[float], None] = time.sleep,
        retry_s: float = 60.0,
        page_count: int = 1000,
        timeout_s: float = 60.0,
    ) -> None:
        """`is_conditional`: whether to ask for write-once creation. `retry_s`: how long a failing request is repeated.

        `page_count`: names of one listing request, at most 1,000. `timeout_s`: how long an answer may stall.
        """
        super().__init__(uri, is_conditional=is_conditional, sleep=sleep, page_count=page_count)
        self._bucket = make_bucket(self._container, endpoint_url, credentials or Credentials())
        from google.cloud.storage.retry import DEFAULT_RETRY

        retry = DEFAULT_RETRY.with_delay(initial=0.5, maximum=16.0).with_timeout(retry_s)
        self._again: dict[str, Any] = {"retry": retry, "timeout": (_CONNECT_S, timeout_s)}

    def list(self, prefix: str = "", *, descend: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        """Objects in byte order, a page a request. After `descend` has said yes once, it is asked no more."""
        return pruned(partial(self._items, prefix), descend)

    def _items(self, prefix: str, delimiter: str, after: str) -> Iterator[Item]:
        found = self._bucket.list_blobs(
            prefix=self._prefix + prefix or None,
            delimiter=delimiter or None,
            start_offset=self._prefix + after if after else None,
            page_size=self._page_count,
            fields=_FIELDS,
            **self._again,
        )
        n_root, pages = len(self._prefix), found.pages
        while True:
            try:
                page = next(pages, None)
            except _errors() as error:
                raise self._translate(error, "list", prefix) from error
            if page is None:
                return
            items: list[Item] = [(name[n_root:], None) for name in page.prefixes]
            items += [(blob.name[n_root:], self._entry(blob)) for blob in page]
            # The store begins with the name itself.
            yield from in_byte_order(item for item in items if item[0] != after)

    def _entry(self, blob: Any) -> Entry:
        generation = str(blob.generation)
        return Entry(blob.name[len(self._prefix) :], blob.size, blob.updated.timestamp(), generation, generation)

    def stat(self, name: str) -> Entry | None:
        """One request for the object's metadata."""
        blob = self._blob(name)
        try:
            blob.reload(**self._again)
        except _errors() as error:
            if error_status(error) == 404 and not is_no_bucket(error):
                return None
            raise self._translate(error, "read", name) from error
        return self._entry(blob)

    def read(self, name: str) -> bytes:
        """One request, compared with the store's checksum; again where its body breaks."""
        try:
            return cast("bytes", self._blob(name).download_as_bytes(raw_download=True, **self._again))
        except _errors() as error:
            raise self._translate(error, "read", name) from error

    def open(self, name: str, *, start: int = 0, end: int | None = None, pin: str = "") -> BinaryIO:
        """The bytes [start, end), at most 4 MiB a request; each is pinned, without a pin to the newest generation.

        The metadata are asked for first: an answer of the store does not say how long the object is.
        """
        entry = self.stat(name)
        if entry is None:
            raise NotFoundError(f"`{self.uri}{name}` does not exist")
        pinned = entry._replace(pin=pin or entry.pin)
        return cast("BinaryIO", RangeStream(f"{self.uri}{name}", partial(self._fetch, pinned), start, end))

    def _fetch(self, entry: Entry, start: int, n_bytes: int) -> Block:
        try:
            data = self._blob(entry.name).download_as_bytes(
                start=start,
                end=start + n_bytes - 1,
                if_generation_match=int(entry.pin),
                raw_download=True,
                checksum=None,  # the store has one of the whole object only
                **self._again,
            )
        except _errors() as error:
            if error_status(error) == 416:
                return Block(b"", None)
            raise self._translate(error, "read", entry.name) from error
        return Block(data, entry.size_bytes)

    def create(self, name: str, data: bytes) -> bool:
        """Upload with `ifGenerationMatch=0`. A refusal or a lost answer is settled by reading the object back."""
        if not self.has_conditional_create:
            return create_unchecked(self, name, data)
        return create_once(
            data,
            put=lambda: self._upload(name, data, if_generation_match=0, **{**self._again, "retry": None}),
            read=lambda: self.read(name),
            errors=_errors(),
            judge=_judge,
            translate=lambda error: self._translate(error, "write", name),
            sleep=self._sleep,
        )

    def _upload(self, name: str, data: bytes, **options: Any) -> None:
        self._blob(name).upload_from_string(data, "application/octet-stream", checksum="md5", **options)

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """Upload with an MD5 that the store compares; above 8 MiB in pieces of 32 MiB."""
        blob = self._bucket.blob(self._prefix + name, chunk_size=_PIECE_BYTES)
        try:
            blob.upload_from_filename(str(path), "application/octet-stream", checksum="md5", **self._again)
        except _errors() as error:
            raise self._translate(error, "write", name) from error
        path.unlink()

    def replace(self, name: str, data: bytes) -> None:
        """One upload."""
        try:
            self._upload(name, data, **self._again)
        except _errors() as error:
            raise self._translate(error, "write", name) from error

    def delete(self, names: Iterable[str]) -> None:
        """A request an object, eight at a time."""
        left = iter(names)
        with ThreadPoolExecutor(_N_DELETES, thread_name_prefix="modalbatch-delete") as pool:
            while batch := list(islice(left, self._page_count)):
                list(pool.map(self._delete_one, batch))

    def _delete_one(self, name: str) -> None:
        try:
            self._bucket.delete_blob(self._prefix + name, **self._again)
        except _errors() as error:
            with suppress(NotFoundError):
                raise self._translate(error, "delete", name) from error

    def sweep_unfinished(self, older_than_s: float, is_ours: Callable[[str], bool]) -> int:
        """Nothing: Google discards uploads that nobody finishes after a week, and no listing shows them."""
        return 0

    def probe(self) -> None:
        """Create one name twice: proves access, and that the store keeps the first."""
        prove_write_once(self, "ifGenerationMatch")

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._prefix + name)

    def _explain(self, error: Exception, verb: str, uri: str) -> ModalbatchError:
        return translate(error, verb, uri)


def _judge(error: Exception) -> Refusal:
    return judge_status(error_status(error))


def _errors() -> tuple[type[Exception], ...]:
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    # What `requests` raises is an OSError.
    return (GoogleAPICallError, RetryError, GoogleAuthError, DataCorruption, InvalidResponse, OSError)
