"""Dead letters, processed again: what a retry of one receipt reads and writes. Runs on: container.

Owns the worker's way from the letters of a receipt to the receipt that takes its place: the records of the letters that
are meant go through a slot (`again_run`), the other letters stay as they are. Refuses letters that were altered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from modalbatch.errors import StateError, UnavailableError
from modalbatch.records import Counts, Receipt, Split, total
from modalbatch.runtime.spool import Spool
from modalbatch.sinks.content import read_lines
from modalbatch.sinks.letter import is_meant
from modalbatch.sinks.objects import ObjectSink

Json = dict[str, Any]

_PIECE_BYTES = 1 << 20
_HINT = "`modalbatch verify` names all that is wrong, `modalbatch apply` makes it again"


def letters_path(part_path: Path) -> Path:
    """Where the letters of the receipt lie, verbatim, for the slot of the attempt with this part."""
    return part_path.with_suffix(".letters")


class Again:
    """The worker's side of one attempt at a split whose `retry` names a receipt."""

    def __init__(self, sink: ObjectSink, split: Split, part_path: Path) -> None:
        """Fetch receipt and letters. Memory: one piece. Raises:

        UnavailableError: something is gone: another run has published meanwhile, or somebody deleted it.
        StateError: the letters are not what the receipt says.
        """
        name = split.retry["receipt"]
        found = sink.read_receipt(name)
        if found is None:
            raise UnavailableError(f"`{name}` of the sink is gone", hint="retry again")
        self._old, self._before, self._path = found, unit_counts(found, name), letters_path(part_path)
        letters = Spool(self._path, None)
        try:
            for piece in _pieces(read_lines(sink.store, found.dead, hint=_HINT)):
                letters.append(piece)
        finally:
            letters.close()
        self._path.touch()  # where there is no letter
        #: As the slot gets it.
        self.split = replace(split, retry={**split.retry, "dead": [item.dead for item in self._before]})

    def finish(self, answer: Json, dead_path: Path) -> Json:
        """The slot's answer as that of the receipt which takes the old one's place; its dead letters at `dead_path`."""
        tried, units = [Counts(**item) for item in answer["units"]], []
        for was, became in zip(self._before, tried, strict=True):
            units.append(
                replace(
                    was + became,
                    in_=was.in_,
                    dead=was.dead - became.in_ + became.dead,
                )
            )
        return answer | {
            "counts": asdict(total(units)),
            "units": [asdict(item) for item in units],
            "dead": self._merge(dead_path),
            "spread": [*self._old.lying, [item.out for item in tried]] if self._old.unit_counts else (),
            "parts": self._old.parts,
            "replaces": self.split.retry["receipt"],
        }

    def _merge(self, dead_path: Path) -> list[Any]:
        """Leave at `dead_path` the letters that were not meant and those of records that failed again, in old order."""
        failed_path = dead_path.with_suffix(".failed")
        try:
            if dead_path.exists():
                dead_path.rename(failed_path)
            else:
                failed_path.touch()
            merged = Spool(dead_path, None)
            try:
                with self._path.open("rb") as letters, failed_path.open("rb") as failed:
                    for piece in _pieces(self._merged(letters, failed)):
                        merged.append(piece)
            finally:
                sha256 = merged.close()
            return [merged.n_bytes, sha256]
        finally:
            failed_path.unlink(missing_ok=True)

    def _merged(self, letters: Iterator[bytes], failed: Iterator[bytes]) -> Iterator[bytes]:
        again = next(failed, None)
        for line in letters:
            letter = json.loads(line)
            if not is_meant(letter, self.split.retry):
                yield line
            elif again is not None and json.loads(again)["id"] == letter["id"]:
                yield again
                again = next(failed, None)


def unit_counts(receipt: Receipt, name: str) -> tuple[Counts, ...]:
    """What each unit gave.

    Raises:
        StateError: the receipt does not say.
    """
    if len(receipt.units) == 1:
        return (receipt.counts,)
    if len(receipt.unit_counts) != len(receipt.units):
        message = f"`{name}` of the sink does not say what each of its inputs gave"
        raise StateError(message, hint="modalbatch apply --redo")
    return receipt.unit_counts


def _pieces(lines: Iterator[bytes]) -> Iterator[bytearray]:
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) > _PIECE_BYTES:
            yield piece
            piece.clear()
    if piece:
        yield piece
