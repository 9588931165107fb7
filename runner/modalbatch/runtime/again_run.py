"""A run over dead letters in a slot. Runs on: container.

Owns a source of their records and what becomes of a letter whose record fails again; everything else is a run like any
other (`split_run`).
"""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Iterator, Mapping
from itertools import accumulate, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from modalbatch.formats import open_format
from modalbatch.records import ALL_LINES, Unit
from modalbatch.runtime.again import letters_path
from modalbatch.runtime.attempts import Item
from modalbatch.runtime.handler import Failure
from modalbatch.runtime.split_run import SplitRun
from modalbatch.sinks.letter import is_meant

Json = dict[str, Any]


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
