"""What of a sink is ours: every object that modalbatch wrote, by kind. Runs on: both.

Owns the exact forms of all names. Refuses guesses: an object whose name is not of one of these forms is foreign,
wherever it lies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from modalbatch.errors import ModalbatchError
from modalbatch.names import (
    DEAD,
    MANIFESTS,
    OWNER,
    PARTS,
    RECEIPTS,
    RUNS,
    SUCCESS,
    is_ours,
    parse_decision_name,
    parse_manifest_name,
    parse_receipt_name,
)
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores import Entry

_SEGMENT = re.compile(re.escape(MANIFESTS) + r"[0-9]{6,}\.[0-9]{4,}-[0-9a-f]{16}\.jsonl")
_RUN = re.compile(
    re.escape(RUNS) + r"[^/]+/(plan\.json|stop|end\.json|epoch-[0-9]+|ledger-[0-9a-f]{16}-[0-9]{6,}\.jsonl)"
)
_PROBE = re.compile(re.escape(RECEIPTS) + r"probe-[0-9a-f]{32}")

#: Kind → prefix under which its objects lie and the test of a name, in the order in which they may be deleted: a crash
#: in between leaves a sink that lists nothing which is gone, and that is still known as ours.
KINDS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "success": (SUCCESS, SUCCESS.__eq__),
    "manifests": (MANIFESTS, lambda name: parse_manifest_name(name) is not None),
    "decisions": (MANIFESTS, lambda name: parse_decision_name(name) is not None),
    "segments": (MANIFESTS, lambda name: _SEGMENT.fullmatch(name) is not None),
    "receipts": (RECEIPTS, lambda name: parse_receipt_name(name) is not None),
    "parts": (PARTS, is_ours),
    "dead": (DEAD, is_ours),
    "runs": (RUNS, lambda name: _RUN.fullmatch(name) is not None),
    "probes": (f"{RECEIPTS}probe-", lambda name: _PROBE.fullmatch(name) is not None),
    "owner": (OWNER, OWNER.__eq__),
}


@dataclass(slots=True)
class Inventory:
    """How much of a sink is ours."""

    n_objects: Counter[str] = field(default_factory=Counter)
    n_bytes: int = 0
    n_foreign: int = 0

    @property
    def n_ours(self) -> int:
        """All objects of ours."""
        return sum(self.n_objects.values())


def take_inventory(sink: ObjectSink) -> Inventory:
    """Count and size, in one listing."""
    found = Inventory()
    for entry in sink.store.list():
        kind = kind_of(sink, entry.name)
        if kind is None:
            found.n_foreign += 1
        else:
            found.n_objects[kind] += 1
            found.n_bytes += entry.size_bytes
    return found


def kind_of(sink: ObjectSink, name: str) -> str | None:
    """The kind of one of our objects, None for a foreign one."""
    kind = next((kind for kind, (prefix, test) in KINDS.items() if name.startswith(prefix) and test(name)), None)
    return None if kind == "success" and not _is_our_success(sink) else kind


def belongings(sink: ObjectSink, kind: str) -> Iterator[Entry]:
    """Our objects of one kind, in byte order; lazy."""
    prefix, test = KINDS[kind]
    for entry in sink.store.list(prefix):
        if test(entry.name) and (kind != "success" or _is_our_success(sink)):
            yield entry


def delete_all(sink: ObjectSink) -> int:
    """Delete everything of ours and nothing else; how many objects. Retry-safe: yes, `owner.json` goes last."""
    n_deleted = 0

    def names(kind: str) -> Iterator[str]:
        nonlocal n_deleted
        for entry in belongings(sink, kind):
            n_deleted += 1
            yield entry.name

    for kind in KINDS:
        sink.delete(names(kind))
        sink.store.commit()
    return n_deleted


def _is_our_success(sink: ObjectSink) -> bool:
    """`_SUCCESS` is a name that others use, too."""
    try:
        found = sink.success()
    except ModalbatchError:
        return False
    return found is not None and set(found) == {"manifest", "sha256"}
