"""Where records come from: listing, cutting and reading input. Runs on: both. A source never knows a sink."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol

from modalbatch.records import Input, Unit


__all__ = ["Input", "Source", "Unit"]


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
