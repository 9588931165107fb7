"""Bytes at names: one class per kind of place. Runs on: both.

A store knows names relative to its root, sizes, identities and write-once creation. It knows nothing of records, splits
or receipts: `sources` and `sinks` are built on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

if TYPE_CHECKING:
    from modalbatch.job import Credentials

#: Scheme of an object store → its class, imported where a job has such a URI.
OBJECT_STORES = {"s3": "s3:S3Store", "az": "azure:AzureStore", "gs": "gcs:GcsStore"}


class Entry(NamedTuple):
    """One object of a store."""

    #: Relative to the store's root, `/` between segments.
    name: str
    size_bytes: int
    #: Seconds since the epoch, by the store's clock.
    modified_s: float
    #: What the bytes are: ETag or version of an object. Empty where the place has none (local files, volumes).
    identity: str
    #: What `open(pin=…)` compares: the ETag, or size and mtime of a file.
    pin: str


class Store(Protocol):
    """Bytes at names under one root. Safe to use from several threads."""

    #: Actual root URI, ends with `/`.
    uri: str
    #: Whether `create` is atomic among writers everywhere.
    has_conditional_create: bool

    def list(self, prefix: str = "", *, descend: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        """Every object whose name starts with `prefix`, recursive, in byte order of the names; lazy.

        An absent root is empty. A store may leave out what lies in a folder (`sub/`, relative to the root) for which
        `descend` says no.
        """

    def stat(self, name: str) -> Entry | None:
        """The object, or None."""

    def read(self, name: str) -> bytes:
        """All bytes of a small object.

        Raises:
            NotFoundError: there is none.
        """

    def open(self, name: str, *, start: int = 0, end: int | None = None, pin: str = "") -> BinaryIO:
        """The bytes [start, end) as a raw stream, reconnecting where the network breaks. Closes: with the stream.

        Raises:
            InputChangedError: the object is not the pinned one, when opened or at any later read.
            NotFoundError: there is none.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Write-once: True iff the object now holds exactly `data`.

        `data` must be unique to its writer (attempt or driver id): after a lost reply the object is read back and
        compared, so our own success is never mistaken for another's. Retry-safe: yes.
        """

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """Publish a finished local file under a name that nobody else uses, durable and verified; takes the file."""

    def replace(self, name: str, data: bytes) -> None:
        """Overwrite (only for `_SUCCESS` and control files)."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; absent ones are fine."""

    def spool_dir(self) -> Path:
        """An existing folder where `put_file` is cheapest."""

    def sweep_unfinished(self, older_than_s: float, is_ours: Callable[[str], bool]) -> int:
        """Remove what writers that died left half-written (temp files, open uploads) and is older; how many.

        `is_ours`: whether an upload to a name is one of ours. A credential that may not see uploads sweeps none.
        """

    def commit(self) -> None:
        """Make our writes visible to others (Modal Volumes); elsewhere nothing."""

    def refresh(self) -> None:
        """See what others committed (Modal Volumes); elsewhere nothing."""

    def probe(self) -> None:
        """Prove, with a scratch object, that write-once creation really is: two creates of one name, one winner.

        Raises:
            StateError: the store overwrites; the hint names `delivery: at_least_once`.
            UnavailableError: no access, with the reason and what to check.
        """


def open_store(
    uri: str,
    *,
    endpoint_url: str | None = None,
    credentials: Credentials | None = None,
    volume_paths: Mapping[str, str] | None = None,
    is_conditional: bool = True,
) -> Store:
    """The store for an *actual* URI: an absolute path, `s3://bucket/prefix/`, `az://container/prefix/`,
    `gs://bucket/prefix/`, `volume://name/path/`.

    `volume_paths` maps names of Modal Volumes to the folders where this container mounts them; a volume that is not
    in it is reached through Modal's API (laptop). `is_conditional`: False for object stores that cannot create
    conditionally; they are not asked to.
    """
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    if scheme == "volume":
        from modalbatch.stores.volume import open_volume

        return open_volume(uri, volume_paths or {})
    if scheme in OBJECT_STORES:
        module, _, name = OBJECT_STORES[scheme].partition(":")
        kind = getattr(import_module(f"modalbatch.stores.{module}"), name)
        store: Store = kind(uri, endpoint_url=endpoint_url, credentials=credentials, is_conditional=is_conditional)
        return store
    from modalbatch.stores.local import LocalStore

    return LocalStore(uri)
