"""What `verify` says of a sink. Runs on: both. Owns its words and their JSON form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from modalbatch.canonical import Json
from modalbatch.records import Counts


class Finding(NamedTuple):
    """One thing that is not as it must be, or need not be there."""

    #: `missing`, `altered`, `duplicated`, `inconsistent`, `unpublished`, `unprocessed`; of extras `orphan`, `foreign`.
    kind: str
    #: Name in the sink, or URI of an input.
    object: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What `verify` found."""

    #: Number of the manifest that was followed; 0 without one.
    manifest: int
    #: Whether a reader can rely on `_SUCCESS`: the last run ended with exit code 0.
    is_complete: bool
    n_receipts: int
    n_parts: int
    part_bytes: int
    counts: Counts
    problems: tuple[Finding, ...]
    n_problems: int
    #: Objects that no reader of the manifest sees, but one who globs for `part-*` does.
    extras: tuple[Finding, ...]
    n_extras: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return self.n_problems == 0

    def to_json(self) -> Json:
        """Plain data."""
        return {
            "ok": self.is_whole,
            "manifest": self.manifest,
            "complete": self.is_complete,
            "receipts": self.n_receipts,
            "parts": self.n_parts,
            "part_bytes": self.part_bytes,
            "counts": self.counts.to_json(),
            "problems": [finding._asdict() for finding in self.problems],
            "n_problems": self.n_problems,
            "extras": [finding._asdict() for finding in self.extras],
            "n_extras": self.n_extras,
        }

    @classmethod
    def from_json(cls, data: Json) -> Proof:
        """What `to_json` wrote."""
        return cls(
            manifest=data["manifest"],
            is_complete=data["complete"],
            n_receipts=data["receipts"],
            n_parts=data["parts"],
            part_bytes=data["part_bytes"],
            counts=Counts.from_json(data["counts"]),
            problems=tuple(Finding(**finding) for finding in data["problems"]),
            n_problems=data["n_problems"],
            extras=tuple(Finding(**finding) for finding in data["extras"]),
            n_extras=data["n_extras"],
        )
