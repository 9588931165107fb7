"""Where records come from: listing, cutting and reading input. Runs on: both. A source never knows a sink."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol


class Input(NamedTuple):
    """One input object, as the listing saw it."""

    #: Logical URI: what the spec's author would write; never a machine path for a relative spec.
    uri: str
    size_bytes: int
    #: What the bytes are: ETag of an object, sha256 of a local file.
    identity: str
    #: What reading compares (see `stores.Entry.pin`).
    pin: str


class Unit(NamedTuple):
    """A part of one input that is processed as a whole: done-ness is per unit."""

    uri: str
    identity: str
    pin: str
    #: Byte range of the raw object; a line belongs to the unit in which its first byte lies.
    start: int
    end: int
    #: Whether the object must be read whole (compressed): then the range is the whole object.
    whole: bool


class Source(Protocol):
    """Lists and reads one job's input."""

    def inputs(self) -> Iterator[Input]:
        """Every input once, in the order of the URIs given and byte order of names in each; lazy."""

    def units(self) -> Iterator[Unit]:
        """The inputs, cut by the rule; lazy. The cut of an input depends on it and the rule alone."""

    def open(self, unit: Unit) -> BinaryIO:
        """The unit's lines as a buffered stream of *decompressed* bytes: exactly those that begin in its range.

        `tell()` of the stream counts from the unit's first line; `Unit.start` + skipped bytes is not its business.

        Raises:
            InputChangedError: the object is not the one that was listed.
        """
