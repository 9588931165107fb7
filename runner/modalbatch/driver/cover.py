"""Which pieces of a divided unit count together. Runs on: both.

Owns the arithmetic: pieces are ranges of lines, [low, high); the whole unit is [0, `ALL_LINES`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from modalbatch.records import ALL_LINES


class Piece(NamedTuple):
    """A range of lines, and the receipt that holds it."""

    low: int
    high: int
    receipt: str


def choose_pieces(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces without overlap, by `low`: those that make up the whole unit if any do, else as many lines as begin it.

    Two attempts may have divided one unit at different lines: only some of their receipts fit together.
    """
    by_low: dict[int, list[Piece]] = {}
    for piece in sorted(pieces):
        by_low.setdefault(piece.low, []).append(piece)
    #: Line → the piece that begins there and is followed without a gap to the end.
    onward: dict[int, Piece] = {}
    for low in sorted(by_low, reverse=True):
        fitting = [piece for piece in by_low[low] if piece.high == ALL_LINES or piece.high in onward]
        if fitting:
            onward[low] = fitting[0]
    chosen: list[Piece] = []
    at = 0
    for low in sorted(by_low):
        if low >= at:
            # What leads to the end is never worse; else what is longest.
            piece = onward.get(low) or by_low[low][-1]
            chosen.append(piece)
            at = piece.high
    return chosen


def gaps(covered: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The lines that no range covers; the ranges are in order and do not overlap."""
    at = 0
    for low, high in covered:
        if low > at:
            yield at, low
        at = high
    if at < ALL_LINES:
        yield at, ALL_LINES
