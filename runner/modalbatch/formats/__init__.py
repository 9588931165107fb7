"""Bytes to records and back: one class per format. Runs on: both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, Protocol


class Bare(NamedTuple):
    """A format's innermost functions, for a loop that asks everything else itself.

    `loads` may return any JSON value and raise anything, and takes the last of fields with one name: where the bytes
    hold another number of `mark` than the record has fields, `is_doubtful`, given that number, says whether a decoder
    must look. `dumps` writes what is none as `null`, so before it each field that is neither a `str` nor an `int` goes
    through `refuse`.
    """

    loads: Callable[[bytes], Any]
    mark: bytes
    is_doubtful: Callable[[bytes, Any, int], bool]
    dumps: Callable[[Any], bytes]
    refuse: Callable[[Any], None]
    delimiter: bytes


class Format(Protocol):
    """A format whose records are delimited in a byte stream."""

    name: str

    def decoder(self) -> Callable[[bytes], Any]:
        """A function from one record's bytes to the record. It raises `ValueError` for bytes that are no record."""

    def encoder(self) -> Callable[[Any, bytearray], None]:
        """A function that appends one encoded record, with its delimiter, to a buffer.

        It raises `TypeError` or `ValueError` for what cannot be written and then leaves the buffer as it was.
        """

    def bare(self) -> Bare:
        """The functions without their guards: about 0.4 µs less a record."""

    def raw_records(self, stream: BinaryIO) -> Any:
        """An iterator over the encoded records of a stream (for JSONL the stream itself: its lines)."""


def open_format(name: str) -> Format:
    """The format by its name in the spec."""
    from modalbatch.formats.jsonl import JsonlFormat

    return {"jsonl": JsonlFormat}[name]()
