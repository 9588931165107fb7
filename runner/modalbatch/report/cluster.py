"""Dead letters by what went wrong. Runs on: laptop.

Counts letters that are the same failure (`sinks.letter` says when). Memory: one sample for each kind; kinds beyond
`MOST_KINDS` are counted together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from modalbatch.canonical import Json
from modalbatch.sinks.letter import Failing, failing

MOST_KINDS = 1000
_MOST_INPUTS = 1000


@dataclass(slots=True, kw_only=True)
class Kind:
    """Dead letters that are the same failure."""

    failing: Failing
    #: The first of them.
    sample: Json
    n: int = 0
    #: Inputs that they come from, up to a limit.
    uris: set[str] = field(default_factory=set)

    @property
    def signature(self) -> str:
        """What tells this kind from others."""
        return self.failing.signature

    def to_json(self) -> Json:
        """What `errors --json` says of it."""
        return {**self.failing._asdict(), "n": self.n, "inputs": len(self.uris), "sample": self.sample}


def clusters(letters: Iterable[Json]) -> tuple[list[Kind], int]:
    """The kinds of failures, the most frequent first, and how many letters are of kinds beyond the limit."""
    kinds: dict[str, Kind] = {}
    n_others = 0
    for letter in letters:
        found = failing(letter)
        kind = kinds.get(found.signature)
        if kind is None:
            if len(kinds) == MOST_KINDS:
                n_others += 1
                continue
            kind = kinds[found.signature] = Kind(failing=found, sample=letter)
        kind.n += 1
        if len(kind.uris) < _MOST_INPUTS:
            kind.uris.add(letter["uri"])
    return sorted(kinds.values(), key=lambda kind: (-kind.n, kind.signature)), n_others
