"""The names of a sink's objects: parts, dead letters, receipts, manifests. Runs on: both.

Owns what a name says of its object, and how it is read back. Reads and writes nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

CONTROL = "_modalbatch/"
OWNER = CONTROL + "owner.json"
RECEIPTS = CONTROL + "receipts/"
DEAD = CONTROL + "dead/"
RUNS = CONTROL + "runs/"
MANIFESTS = CONTROL + "manifest-"
SUCCESS = "_SUCCESS"
PARTS = "part-"

_RECEIPT = re.compile(RECEIPTS + r"([0-9a-f]{24})\.([0-9a-f]{8})\.g([0-9]+)(?:/([0-9a-f]{32}))?\.json")
_PART = re.compile(r"part-([0-9a-f]{24})-([0-9a-f]{8})\.[a-z0-9.]+")
_DEAD = re.compile(DEAD + r"([0-9a-f]{24})-([0-9a-f]{8})\.jsonl")
_DECISION = re.compile(MANIFESTS + r"([0-9]{6,})-([0-9a-f]{16})\.live")
_MANIFEST = re.compile(MANIFESTS + r"([0-9]{6,})(?:-([0-9a-f]{16}))?\.json")


class ReceiptName(NamedTuple):
    """A receipt's name, taken apart."""

    split: str
    fp8: str
    generation: int
    #: Empty where the store has conditional create and the name alone is the commit point.
    attempt: str


def receipt_name(split: str, fingerprint: str, generation: int, attempt: str = "") -> str:
    """`_modalbatch/receipts/<split>.<fp8>.g<n>.json`, or `…/<attempt>.json` below it where creates are not atomic."""
    stem = f"{RECEIPTS}{split}.{fingerprint[:8]}.g{generation}"
    return f"{stem}/{attempt}.json" if attempt else f"{stem}.json"


def parse_receipt_name(name: str) -> ReceiptName | None:
    """The pieces of a name of exactly our form, else None."""
    match = _RECEIPT.fullmatch(name)
    return ReceiptName(match[1], match[2], int(match[3]), match[4] or "") if match else None


def part_name(split: str, attempt: str, suffix: str) -> str:
    """`part-<split>-<attempt8><suffix>`."""
    return f"{PARTS}{split}-{attempt[:8]}{suffix}"


def dead_name(split: str, attempt: str) -> str:
    """`_modalbatch/dead/<split>-<attempt8>.jsonl`."""
    return f"{DEAD}{split}-{attempt[:8]}.jsonl"


def is_ours(name: str) -> bool:
    """Whether a part's or dead letter object's name has exactly our form."""
    return bool(_PART.fullmatch(name) or _DEAD.fullmatch(name))


def manifest_name(number: int, sha256: str = "") -> str:
    """`_modalbatch/manifest-000007.json`; with a content hash where creates are not atomic."""
    return f"{MANIFESTS}{number:06d}{'-' + sha256[:16] if sha256 else ''}.json"


def parse_manifest_name(name: str) -> tuple[int, str] | None:
    """Number and content hash of a name of our form, else None (segments have another form)."""
    match = _MANIFEST.fullmatch(name)
    return (int(match[1]), match[2] or "") if match else None


def decision_name(number: int, sha256: str) -> str:
    """`_modalbatch/manifest-000007-<sha16>.live`: which manifest of a number counts, where creates are not atomic."""
    return f"{MANIFESTS}{number:06d}-{sha256[:16]}.live"


def parse_decision_name(name: str) -> tuple[int, str] | None:
    """Number and content hash of a name of our form, else None."""
    match = _DECISION.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


def segment_name(number: int, index: int, sha256: str) -> str:
    """`_modalbatch/manifest-000007.<index>-<sha16>.jsonl`: unique to its content."""
    return f"{MANIFESTS}{number:06d}.{index:04d}-{sha256[:16]}.jsonl"
