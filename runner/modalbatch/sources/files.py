"""Objects at URIs: local files, object stores, Volumes. Runs on: both.

Owns what a URI means (patterns, roots, order, each input once), the cut into units, and reading one unit. Ids are made
of logical URIs; where the bytes lie is in `roots`, which differ from machine to machine. Refuses names that are not
text and compression that a file's name does not say.
"""

from __future__ import annotations

import heapq
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from modalbatch import job
from modalbatch.errors import ModalbatchError, NotFoundError
from modalbatch.formats.compression import infer_compression, open_decompressor, refuse_compressed
from modalbatch.sources import Input, Unit
from modalbatch.sources.glob import Pattern, has_wildcard, split_pattern
from modalbatch.sources.identity import IdentityCache, hash_stream
from modalbatch.sources.lines import LineRange, LineStream
from modalbatch.stores import Entry, Store, open_store

#: A range of `split: auto`.
AUTO_BYTES = 8 << 20
#: Files below this are hashed where they are met: a thread would cost more.
_SMALL_BYTES = 64 << 10
_N_HASHED_AHEAD = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")

#: The parts that a sink's newest manifest lists, relative to the sink; None where the folder is no sink.
ManifestParts = Callable[[Store], "Iterable[str] | None"]


class _Found(NamedTuple):
    """One object that a URI means."""

    uri: str
    store: Store
    entry: Entry


class FileSource:
    """The inputs of one job."""

    def __init__(
        self,
        source: job.Source,
        roots: Mapping[str, str],
        identity_cache: Path | None = None,
        *,
        volume_paths: Mapping[str, str] | None = None,
        manifest_parts: ManifestParts | None = None,
    ) -> None:
        """`roots` maps logical URIs to actual ones: prefixes, whose values end with `/`, and single files."""
        self._source = source
        self._uris = [uri.removeprefix("./") for uri in source.uris]
        self._folders = {key: root for key, root in roots.items() if root.endswith("/")}
        self._files = {key: root for key, root in roots.items() if not root.endswith("/")}
        self._cache = IdentityCache(identity_cache) if identity_cache else None
        self._volume_paths = volume_paths or {}
        self._manifest_parts = manifest_parts
        self._stores: dict[str, Store] = {}

    def inputs(self) -> Iterator[Input]:
        """Every input once. Memory: a window of the listing, and the names of one local folder a level.

        Raises:
            NotFoundError: a file that is named without a wildcard is not there, unless `allow_empty`.
        """
        for found, identity in self._identified(self._found()):
            yield Input(found.uri, found.entry.size_bytes, identity, found.entry.pin)

    def units(self) -> Iterator[Unit]:
        """Ranges of `split` bytes (8 MiB), whole files where they are compressed or `split` counts files."""
        step = self._source.split.bytes or AUTO_BYTES
        for uri, size_bytes, identity, pin in self.inputs():
            is_whole = self._compression(uri) != "none"
            if is_whole or self._source.split.files or not size_bytes:
                yield Unit(uri, identity, pin, 0, size_bytes, is_whole)
                continue
            for start in range(0, size_bytes, step):
                yield Unit(uri, identity, pin, start, min(start + step, size_bytes), False)

    def open(self, unit: Unit) -> BinaryIO:
        """The unit's lines. Memory: half a MiB, or twice the longest record, and what the decompressor needs."""
        store, name = self._place(self._actual(unit.uri) or unit.uri)
        if unit.whole:
            stream = store.open(name, pin=unit.pin)
            try:
                plain = open_decompressor(stream, self._compression(unit.uri), unit.uri)
            except BaseException:
                stream.close()
                raise
            lines = LineRange(
                lambda start, end: cast("BinaryIO", plain),
                0,
                sys.maxsize >> 1,
                check_head=partial(refuse_compressed, name=unit.uri, inside=self._compression(unit.uri)),
            )
        else:
            lines = LineRange(
                lambda start, end: store.open(name, start=start, end=end, pin=unit.pin),
                unit.start,
                unit.end,
                check_head=partial(refuse_compressed, name=unit.uri),
            )
        return cast("BinaryIO", LineStream(lines, self._source.max_record_bytes))

    def _compression(self, uri: str) -> str:
        return self._source.compression or infer_compression(uri)

    def _found(self) -> Iterator[_Found]:
        """What the URIs mean, in their order; what an earlier one means too is left out there."""
        earlier: list[Callable[[str], bool]] = []
        for uri in self._uris:
            folder, rest = split_pattern(uri)
            pattern = Pattern(rest) if has_wildcard(uri) else None
            found = self._expand(folder, pattern) if pattern else self._one(uri)
            for item in found:
                # Patterns are asked again instead of keeping a set of a million names.
                if not any(matches(item.uri) for matches in earlier):
                    yield item
            earlier.append(partial(_means, folder, pattern) if pattern else uri.__eq__)

    def _one(self, uri: str) -> Iterator[_Found]:
        actual = self._actual(uri)
        if actual is not None:
            store, name = self._place(actual)
            if entry := store.stat(name):
                yield _Found(uri, store, entry)
                return
        if not self._source.allow_empty:
            raise NotFoundError(
                f"`{uri}` is not a file",
                hint=f"for all files of a folder write `{uri}/`; `allow_empty: true` accepts that there is none",
            )

    def _expand(self, folder: str, pattern: Pattern) -> Iterator[_Found]:
        """What a pattern below a literal folder means, in byte order."""
        staged = self._staged(folder, pattern)
        actual = self._actual(folder)
        listed = self._listed(folder, actual, pattern) if actual is not None else iter(())
        last = None
        for found in heapq.merge(staged, listed, key=lambda found: found.uri.encode("utf-8", "surrogateescape")):
            if found.uri != last:
                last = _text(found.uri)
                yield found

    def _staged(self, folder: str, pattern: Pattern) -> list[_Found]:
        """Files that stand in `roots` one by one."""
        found = []
        for uri, actual in self._files.items():
            if _means(folder, pattern, uri):
                store, name = self._place(actual)
                if entry := store.stat(name):
                    found.append(_Found(uri, store, entry))
        return sorted(found, key=lambda item: item.uri.encode())

    def _listed(self, folder: str, actual: str, pattern: Pattern) -> Iterator[_Found]:
        store, at = self._place(actual)
        parts = self._parts_of_sink(actual, store, at)
        if parts is not None:
            for name in sorted(parts, key=str.encode):
                if pattern.matches(name) and (entry := store.stat(at + name)):
                    yield _Found(folder + name, store, entry)
            return
        for entry in store.list(at + pattern.prefix, descend=lambda name: pattern.may_lie_below(name[len(at) :])):
            name = entry.name[len(at) :]
            if pattern.matches(name):
                yield _Found(folder + name, store, entry)

    def _parts_of_sink(self, actual: str, store: Store, at: str) -> Iterable[str] | None:
        """The live parts where the folder is a sink of ours: the other files there belong to no run or an older one."""
        if not self._manifest_parts or next(store.list(f"{at}_modalbatch/"), None) is None:
            return None
        return self._manifest_parts(self._open_store(actual))

    def _identified(self, items: Iterator[_Found]) -> Iterator[tuple[_Found, str]]:
        """Each with its identity; contents are hashed by two threads a little ahead."""
        pool = ThreadPoolExecutor(2, thread_name_prefix="modalbatch-hash")
        window: deque[tuple[_Found, str | Future[str]]] = deque()
        try:
            for item in items:
                window.append((item, self._identity(item, pool)))
                if len(window) > _N_HASHED_AHEAD:
                    yield _settled(*window.popleft())
            while window:
                yield _settled(*window.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            if self._cache:
                self._cache.flush()

    def _identity(self, found: _Found, pool: ThreadPoolExecutor) -> str | Future[str]:
        if found.entry.identity:
            return found.entry.identity
        if found.uri in self._files and _SHA256.fullmatch(name := found.entry.name.rpartition("/")[2]):
            # Staged under its own hash.
            return name
        path = found.store.uri + found.entry.name
        known = self._cache.find(path) if self._cache and path.startswith("/") else None
        if known:
            return known
        if found.entry.size_bytes < _SMALL_BYTES:
            return self._hash(found, path)
        return pool.submit(self._hash, found, path)

    def _hash(self, found: _Found, path: str) -> str:
        with found.store.open(found.entry.name, pin=found.entry.pin) as stream:
            sha256 = hash_stream(stream, found.entry.size_bytes)
        if self._cache and path.startswith("/"):
            self._cache.remember(path, found.entry.pin, sha256)
        return sha256

    def _actual(self, uri: str) -> str | None:
        """Where a logical URI lies here; None for a relative one that no root covers."""
        if uri in self._files:
            return self._files[uri]
        is_absolute = "://" in uri or uri.startswith("/")
        covers = [key for key in self._folders if uri.startswith(key) and (key or not is_absolute)]
        if covers:
            key = max(covers, key=len)
            return self._folders[key] + uri[len(key) :]
        return uri if is_absolute else None

    def _place(self, actual: str) -> tuple[Store, str]:
        """The store of an actual URI and the name in it: one store a bucket or volume, kept."""
        if "://" in actual:
            scheme, _, path = actual.partition("://")
            container, _, name = path.partition("/")
            root = f"{scheme}://{container}/"
        else:
            folder, _, name = actual.rpartition("/")
            return self._open_store(f"{folder}/"), name
        if root not in self._stores:
            self._stores[root] = self._open_store(root)
        return self._stores[root], name

    def _open_store(self, uri: str) -> Store:
        source = self._source
        return open_store(
            uri,
            endpoint_url=source.endpoint_url,
            credentials=source.credentials,
            volume_paths=self._volume_paths,
        )


def _means(folder: str, pattern: Pattern, uri: str) -> bool:
    return uri.startswith(folder) and pattern.matches(uri[len(folder) :])


def _settled(found: _Found, identity: str | Future[str]) -> tuple[_Found, str]:
    return found, identity if isinstance(identity, str) else identity.result()


def _text(uri: str) -> str:
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise ModalbatchError(
            f"the name of `{uri.encode('utf-8', 'backslashreplace').decode()}` is not UTF-8", hint="rename the file"
        ) from None
    return uri
