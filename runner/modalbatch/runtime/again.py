"""Dead letters, processed again: what a retry of one receipt reads and writes. Runs on: container.

Owns the way from the letters of a receipt to the receipt that takes its place: the records of the letters that are
meant go through a slot like any others, the other letters stay as they are. Refuses letters that were altered.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import accumulate, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from modalbatch.errors import StateError, UnavailableError
from modalbatch.formats import open_format
from modalbatch.records import ALL_LINES, Counts, Receipt, Split, Unit, total
from modalbatch.runtime.attempts import Item
from modalbatch.runtime.handler import Failure
from modalbatch.runtime.split_run import SplitRun
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


class AgainRun(SplitRun):
    """The slot's side: a run whose source is the letters, and whose failures are the same letters, tried once more."""

    def open_source(self) -> LetterSource:
        """The records of the letters that are meant, in the place of the units' lines."""
        retry, path = self.task.split.retry, letters_path(self.task.part_path)
        self._letters = LetterSource(path, self.task.split.units, retry, self.job.source.format)
        return self._letters

    def lines_of(self, unit: Unit) -> tuple[int, int]:
        """All: the letters of a piece are its own."""
        return 0, ALL_LINES

    def _letter(self, item: Item, failed: Failure) -> Json:
        made, old = super()._letter(item, failed), self._letters.at(item.offset)
        kept = {name: value for name, value in old.items() if name not in ("record", "raw_base64")}
        new = {name: made[name] for name in ("cause", "error", "record", "raw_base64") if name in made}
        attempts = old["attempts"] + failed.attempts
        # The driver of a later run sees from it what a run that was killed has done.
        return kept | new | {"attempts": attempts, "retried": self.task.split.retry["before"]}


class LetterSource:
    """The records of letters as lines. Memory: 8 bytes a letter."""

    def __init__(self, path: Path, units: tuple[Unit, ...], retry: Mapping[str, Any], source_format: str) -> None:
        self._path, self._retry = path, retry
        self._encode = open_format(source_format).encoder()
        with path.open("rb") as lines:
            self._starts = array("Q", accumulate((len(line) for line in lines), initial=0))
        ends = list(accumulate(retry["dead"]))
        self._ranges = {unit.id: (end - n, end) for unit, end, n in zip(units, ends, retry["dead"], strict=True)}

    def at(self, number: int) -> Json:
        """The letter of that number."""
        with self._path.open("rb") as letters:
            letters.seek(self._starts[number])
            return json.loads(letters.readline())  # type: ignore[no-any-return]

    def open(self, unit: Unit) -> LetterStream:
        """The lines of one unit."""
        return LetterStream(self._lines(*self._ranges[unit.id]))

    def _lines(self, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as letters:
            letters.seek(self._starts[first])
            for number, text in enumerate(islice(letters, end - first), first):
                letter = json.loads(text)
                if is_meant(letter, self._retry):
                    yield number, self._line(letter)

    def _line(self, letter: Json) -> bytes:
        if "record" not in letter:
            raw = base64.b64decode(letter["raw_base64"])
            return raw if raw.endswith(b"\n") else raw + b"\n"
        line = bytearray()
        self._encode(letter["record"], line)
        return bytes(line)


class LetterStream:
    """Lines that lie where their letter lies: `tell()` minus the line read last is the number of its letter."""

    def __init__(self, lines: Iterator[tuple[int, bytes]]) -> None:
        self._lines, self._at = lines, 0
        self.raw = SimpleNamespace(first_byte=0)
        self.on_read: Any = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        number, line = next(self._lines)
        self._at = number + len(line)
        return line

    def tell(self) -> int:
        """See above."""
        return self._at

    def __enter__(self) -> LetterStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()  # type: ignore[attr-defined]
