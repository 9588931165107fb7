"""The sweep: what nobody can count on any more is deleted. Runs on: both.

Owns the two rules of `guarantees.md` section 3. Deletes only names of exactly our form under this sink.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from modalbatch.errors import StateError
from modalbatch.records import DEAD, PARTS, RECEIPTS, RUNS, Manifest, Receipt, is_ours, parse_receipt_name
from modalbatch.sinks.objects import ObjectSink

#: Attempts older than this many timeouts never commit (a worker refuses to commit after one).
DEADLINE_TIMEOUTS = 2
_CHUNK = 1000


def sweep(
    sink: ObjectSink,
    manifest: Manifest | None,
    *,
    timeout_s: float,
    none_is_running: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.time,
) -> int:
    """Delete what the newest manifest retires, and parts of attempts that never commit; how many objects.

    `none_is_running` says that no attempt of any run can still be on its way; then age does not matter. Retry-safe:
    yes, by anyone, at any time.
    """
    # Files of writers that died in the middle are under no name that counts.
    sink.store.sweep_unfinished(DEADLINE_TIMEOUTS * timeout_s)
    n_deleted = _sweep_retired(sink, manifest) if manifest else 0
    # Parts first, receipts after them: what is seen here and named later was named before the second list.
    orphans = {
        entry.name: entry.modified_s
        for prefix in (PARTS, DEAD)
        for entry in sink.store.list(prefix)
        if is_ours(entry.name)
    }
    seen_at = now()
    _forget_named(sink, manifest, orphans)
    oldest = seen_at - DEADLINE_TIMEOUTS * timeout_s
    if any(modified_s >= oldest for modified_s in orphans.values()):
        # Only receipts that are listed after the answer tell whether an attempt that has just ended has committed.
        if none_is_running():
            _forget_named(sink, manifest, orphans)
        else:
            orphans = {name: modified_s for name, modified_s in orphans.items() if modified_s < oldest}
    _delete(sink, sorted(orphans))
    return n_deleted + len(orphans)


def _forget_named(sink: ObjectSink, manifest: Manifest | None, orphans: dict[str, float]) -> None:
    """Take out what any receipt names."""
    if not orphans:
        return
    for _, receipt in _all_receipts(sink, manifest):
        if receipt is None:
            orphans.clear()  # a receipt that cannot be read may name any of them
            return
        for part in receipt.parts + receipt.dead:
            orphans.pop(part.name, None)


def _sweep_retired(sink: ObjectSink, manifest: Manifest) -> int:
    """Retired receipts first, then those of their objects that no other receipt names."""
    listed = {entry.name for entry in sink.store.list(RECEIPTS)}
    names = [name for name in manifest.retired if name in listed]
    if not names:
        return 0
    gone = [(name, receipt) for name in names if (receipt := _read(sink, name))]
    objects = {part.name for _, receipt in gone for part in receipt.parts + receipt.dead}
    retired = set(names)
    for name, receipt in _all_receipts(sink, manifest):
        if name not in retired and receipt is not None:
            objects.difference_update(part.name for part in receipt.parts + receipt.dead)
        elif name not in retired:
            objects.clear()
    _delete(sink, names)
    _delete(sink, sorted(name for name in objects if is_ours(name)))
    return len(names) + len(objects)


def _all_receipts(sink: ObjectSink, manifest: Manifest | None) -> Iterable[tuple[str, Receipt | None]]:
    """Every receipt that stands in the sink; the live ones from the manifest, so that few are read one by one."""
    listed = {entry.name for entry in sink.store.list(RECEIPTS) if parse_receipt_name(entry.name)}
    for name, receipt in sink.live(manifest):
        listed.discard(name)
        yield name, receipt
    for name in sorted(listed):
        try:
            yield name, sink.read_receipt(name)
        except StateError:  # torn: the caller must assume the worst
            yield name, None


def _read(sink: ObjectSink, name: str) -> Receipt | None:
    try:
        return sink.read_receipt(name)
    except StateError:  # torn receipts are retired too; their parts become orphans of rule (b)
        return None


def _delete(sink: ObjectSink, names: list[str]) -> None:
    for start in range(0, len(names), _CHUNK):
        sink.delete(names[start : start + _CHUNK])
    if names:
        sink.store.commit()


def sweep_runs(sink: ObjectSink, keep: int) -> int:
    """Delete the control files of all but the newest `keep` runs; how many objects. Manifests stay."""
    runs: dict[str, list[str]] = {}
    for entry in sink.store.list(RUNS):
        runs.setdefault(entry.name[len(RUNS) :].partition("/")[0], []).append(entry.name)
    old = [name for run_id in sorted(runs)[:-keep] for name in runs[run_id]] if len(runs) > keep else []
    _delete(sink, old)
    return len(old)
