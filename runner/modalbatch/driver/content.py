"""What one part really holds: hash and records. Runs on: both. Reads it once; memory: one block.

Owns the batches in which many parts are read by many containers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

from modalbatch.canonical import encode
from modalbatch.driver.proof import Finding
from modalbatch.errors import CorruptInputError, NotFoundError, UnavailableError
from modalbatch.formats.compression import infer_compression, open_decompressor
from modalbatch.records import Part
from modalbatch.sinks.content import Hashed
from modalbatch.stores import Store

_BLOCK_BYTES = 1 << 20
#: Every read makes a buffer: for a small part a block costs more than the part.
_SMALL_BYTES = 16 << 10
#: What one container reads at a time: so many bytes or parts.
_BATCH_BYTES, _BATCH_PARTS = 256 << 20, 200
#: Parts that one container reads at the same time.
_READERS = 8

#: From requests (JSON text) to answers, in any order: `inspect.map`, or what a test puts in its place.
MapChecks = Callable[[Iterator[str]], Iterable[str]]


def map_checks(parts: Iterable[Part], send: MapChecks) -> Iterator[Finding]:
    """`check_content` of many parts, each batch in whatever container takes it; see `answer_check`."""
    for answer in send(encode({"verb": "check", "parts": batch}) for batch in _batches(parts)):
        data = json.loads(answer)
        if "error" in data:
            raise UnavailableError(data["error"]["message"], hint=data["error"]["hint"])
        yield from (Finding(*finding) for finding in data["findings"])


def answer_check(store: Store, parts: Iterable[list[Any]]) -> list[Finding]:
    """What is wrong with the parts of one batch."""
    with ThreadPoolExecutor(_READERS, "modalbatch-check") as threads:
        found = threads.map(lambda part: check_content(store, Part(*part)), parts)
        return [finding for finding in found if finding]


def _batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    batch: list[Part] = []
    for part in parts:
        if batch and (len(batch) >= _BATCH_PARTS or sum(item.bytes for item in batch) + part.bytes > _BATCH_BYTES):
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch


def check_content(store: Store, part: Part) -> Finding | None:
    """What is wrong with a part or an object of dead letters, against what its receipt says."""
    try:
        raw = store.open(part.name)
    except NotFoundError:
        return Finding("missing", part.name, f"{part.records} records, {part.bytes} bytes")
    with raw:
        hashed = Hashed(raw)
        block_bytes = min(_BLOCK_BYTES, max(_SMALL_BYTES, part.bytes + 1))
        n_records, damage = _count_records(hashed, part.name, block_bytes)
        while hashed.read(block_bytes):  # what a decompressor that stopped early left
            pass
    if hashed.sha.hexdigest() != part.sha256:
        return Finding("altered", part.name, "its content is not what its receipt says")
    if damage:
        return Finding("inconsistent", part.name, damage)
    if n_records != part.records:
        return Finding("inconsistent", part.name, f"it has {n_records} records, its receipt says {part.records}")
    return None


def _count_records(stream: Hashed, name: str, block_bytes: int) -> tuple[int, str]:
    """Lines of a part, and what is wrong with its compression."""
    n_records, last = 0, b"\n"
    try:
        plain = open_decompressor(cast("BinaryIO", stream), infer_compression(name), name)
        while block := plain.read(block_bytes):
            n_records += block.count(b"\n")
            last = block
    except CorruptInputError as error:
        return n_records, error.message
    return n_records, "" if last.endswith(b"\n") else "its last record has no end"
