"""What one part really holds: hash and records. Runs on: both. Reads it once; memory: one block."""

from __future__ import annotations

from typing import BinaryIO, cast

from modalbatch.driver.proof import Finding
from modalbatch.errors import CorruptInputError, NotFoundError
from modalbatch.formats.compression import infer_compression, open_decompressor
from modalbatch.records import Part
from modalbatch.sinks.content import Hashed
from modalbatch.stores import Store

_BLOCK_BYTES = 1 << 20
#: Every read makes a buffer: for a small part a block costs more than the part.
_SMALL_BYTES = 16 << 10


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
