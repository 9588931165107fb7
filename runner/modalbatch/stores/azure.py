"""Blobs of one container of Azure Blob Storage. Runs on: both.

Owns write-once creation by `If-None-Match: *`, reading pinned by `If-Match`, uploads whose every request carries its
MD5. Refuses a store that overwrites where it was told not to (`probe`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from modalbatch.errors import ModalbatchError, NotFoundError, UnavailableError
from modalbatch.job import Credentials
from modalbatch.stores import Entry
from modalbatch.stores.azure_client import BLOCK_BYTES, error_code, error_status, make_client, translate
from modalbatch.stores.listing import Item, in_byte_order
from modalbatch.stores.object_store import ObjectStore
from modalbatch.stores.range_stream import Block, RangeStream
from modalbatch.stores.write_once import Refusal, create_once, create_unchecked, judge_status, prove_write_once

if TYPE_CHECKING:
    from azure.storage.blob import BlobProperties, ContainerClient

#: Deletes in one batch request; more are refused by the service.
_BATCH = 256


class AzureStore(ObjectStore):
    """Blobs below one prefix of a container."""

    def __init__(
        self,
        uri: str,
        *,
        endpoint_url: str | None = None,
        credentials: Credentials | None = None,
        is_conditional: bool = True,
        sleep: Callable[[float], None] = time.sleep,
        page_count: int = 5000,
        timeout_s: float = 60.0,
    ) -> None:
        """`endpoint_url`: of the account. `is_conditional`: whether to ask for write-once creation.

        `page_count`: names of one listing request, at most 5,000. `timeout_s`: how long an answer may stall.
        """
        super().__init__(uri, is_conditional=is_conditional, sleep=sleep, page_count=page_count)
        self._client: ContainerClient = make_client(
            self._container, endpoint_url, credentials or Credentials(), pause=sleep, timeout_s=timeout_s
        )

    def list(self, prefix: str = "", *, descend: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        """Blobs in byte order, a page a request.

        The service cannot begin in the middle: with `descend`, each folder below the prefix that it wants is a listing
        of its own, in which it is asked no more.
        """
        for name, entry in self._items(prefix, "/" if descend else ""):
            if entry:
                yield entry
            elif descend and descend(name):
                yield from (entry for _, entry in self._items(name, "") if entry)

    def _items(self, prefix: str, delimiter: str) -> Iterator[Item]:
        # Accounts with a hierarchical namespace list folders as blobs; their metadata says so.
        request: dict[str, Any] = {"include": ["metadata"], "results_per_page": self._page_count}
        start = self._prefix + prefix
        if delimiter:
            found: Any = self._client.walk_blobs(start or None, delimiter=delimiter, **request)
        else:
            found = self._client.list_blobs(start or None, **request)
        pages = found.by_page()
        while True:
            try:
                page = next(pages, None)
                items = None if page is None else [self._item(blob) for blob in page]
            except _errors() as error:
                raise self._translate(error, "list", prefix) from error
            if items is None:
                return
            yield from in_byte_order(item for item in items if item)

    def _item(self, blob: Any) -> Item | None:
        name = blob.name[len(self._prefix) :]
        if not hasattr(blob, "etag"):
            return name, None
        is_folder = (blob.metadata or {}).get("hdi_isfolder") == "true"
        return None if is_folder else (name, self._entry(blob))

    def _entry(self, blob: BlobProperties) -> Entry:
        etag = blob.etag.strip('"')
        return Entry(blob.name[len(self._prefix) :], blob.size, blob.last_modified.timestamp(), etag, etag)

    def stat(self, name: str) -> Entry | None:
        """One HEAD request."""
        try:
            found = self._blob(name).get_blob_properties()
        except _errors() as error:
            if error_status(error) == 404 and error_code(error) != "ContainerNotFound":
                return None
            raise self._translate(error, "read", name) from error
        return None if (found.metadata or {}).get("hdi_isfolder") == "true" else self._entry(found)

    def read(self, name: str) -> bytes:
        """One GET request of a small blob; again where its body breaks."""
        with self.open(name) as stream:
            return stream.read()

    def open(self, name: str, *, start: int = 0, end: int | None = None, pin: str = "") -> BinaryIO:
        """The bytes [start, end), at most 4 MiB a request; each carries the pin, or else the first one's ETag."""
        from azure.core import MatchConditions

        blob, seen = self._blob(name), pin

        def fetch(at: int, n_bytes: int) -> Block:
            nonlocal seen
            match = {"etag": f'"{seen}"', "match_condition": MatchConditions.IfNotModified} if seen else {}
            try:
                answer = blob.download_blob(at, n_bytes, **match)
                seen = answer.properties.etag.strip('"')
                size_bytes = int(answer.properties.content_range.rpartition("/")[2])
                return Block(answer.readall(), size_bytes)
            except _errors() as error:
                if error_status(error) == 416:
                    return Block(b"", None)
                if error_status(error) == 412 and self.stat(name) is None:
                    raise NotFoundError(f"`{self.uri}{name}` does not exist") from error
                raise self._translate(error, "read", name) from error

        return cast("BinaryIO", RangeStream(f"{self.uri}{name}", fetch, start, end))

    def create(self, name: str, data: bytes) -> bool:
        """Put Blob with `If-None-Match: *`. A refusal or a lost answer is settled by reading the blob back."""
        if not self.has_conditional_create:
            return create_unchecked(self, name, data)
        return create_once(
            data,
            put=lambda: self._blob(name).upload_blob(data, overwrite=False, validate_content=True),
            read=lambda: self.read(name),
            errors=_errors(),
            judge=_judge,
            translate=lambda error: self._translate(error, "write", name),
            sleep=self._sleep,
        )

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """Upload; the service compares each request with its MD5. Above 8 MiB in blocks, and the size is asked for."""
        size_bytes = path.stat().st_size
        try:
            with path.open("rb") as body:
                self._blob(name).upload_blob(
                    body, length=size_bytes, overwrite=True, validate_content=True, max_concurrency=4
                )
        except _errors() as error:
            raise self._translate(error, "write", name) from error
        if size_bytes > BLOCK_BYTES:
            entry = self.stat(name)
            if entry is None or entry.size_bytes != size_bytes:
                raise UnavailableError(
                    f"`{self.uri}{name}` was not stored as it was sent", hint="run `apply` again, or check the store"
                )
        path.unlink()

    def replace(self, name: str, data: bytes) -> None:
        """One Put Blob."""
        try:
            self._blob(name).upload_blob(data, overwrite=True, validate_content=True)
        except _errors() as error:
            raise self._translate(error, "write", name) from error

    def delete(self, names: Iterable[str]) -> None:
        """256 blobs a request."""
        left = iter(names)
        while batch := list(islice(left, _BATCH)):
            try:
                answers = list(
                    self._client.delete_blobs(*(self._prefix + name for name in batch), raise_on_any_failure=False)
                )
            except _errors() as error:
                raise self._translate(error, "delete", "") from error
            for name, answer in zip(batch, answers, strict=True):
                if answer.status_code not in (202, 404):
                    code = answer.headers.get("x-ms-error-code", answer.status_code)
                    raise UnavailableError(
                        f"cannot delete `{self.uri}{name}`: {code}",
                        hint="check that the credentials may delete blobs there",
                    )

    def sweep_unfinished(self, older_than_s: float, is_ours: Callable[[str], bool]) -> int:
        """Nothing: Azure discards blocks that nobody commits after a week, and no listing shows them."""
        return 0

    def probe(self) -> None:
        """Create one name twice: proves access, and that the store keeps the first."""
        prove_write_once(self, "If-None-Match")

    def _blob(self, name: str) -> Any:
        return self._client.get_blob_client(self._prefix + name)

    def _explain(self, error: Exception, verb: str, uri: str) -> ModalbatchError:
        return translate(error, verb, uri)


def _judge(error: Exception) -> Refusal:
    """What a failed conditional create means. `UnauthorizedBlobOverwrite`: a SAS that may create, but not overwrite."""
    code = error_code(error)
    if code in ("BlobAlreadyExists", "UnauthorizedBlobOverwrite"):
        return Refusal.TAKEN
    return Refusal.FINAL if code.startswith("Container") else judge_status(error_status(error))


def _errors() -> tuple[type[Exception], ...]:
    from azure.core.exceptions import AzureError

    return (AzureError, OSError)
