"""The sweep: what nobody can count on any more is deleted. Runs on: both.

Owns the two rules of `guarantees.md` section 3. Deletes only names of exactly our form under this sink.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from modalbatch.driver.plan import read_receipts
from modalbatch.driver.runs import longest_timeout_s
from modalbatch.names import DEAD, PARTS, RECEIPTS, is_ours, parse_receipt_name
from modalbatch.records import Manifest, Receipt
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

    `none_is_running` says that no attempt of any run can still be on its way; then age does not matter. `now` is the
    clock of the store, or an earlier moment. Retry-safe: yes, by anyone, at any time.
    """
    n_deleted = _sweep_retired(sink, manifest) if manifest else 0
    with closing(_scratch()) as orphans:
        # Parts first, receipts after them: what is seen here and named later was named before the second list.
        for prefix in (PARTS, DEAD):
            rows = ((entry.name, entry.modified_s) for entry in sink.store.list(prefix) if is_ours(entry.name))
            orphans.executemany("INSERT OR REPLACE INTO object VALUES (?, ?)", rows)
        seen_at = now()
        # Between the lists: what is seen belongs to a run that is known here, or that has ended with its receipts.
        timeout_s = longest_timeout_s(sink, timeout_s)
        # Files of writers that died in the middle are under no name that counts.
        sink.store.sweep_unfinished(DEADLINE_TIMEOUTS * timeout_s, is_ours)
        _forget_named(sink, manifest, orphans)
        oldest = seen_at - DEADLINE_TIMEOUTS * timeout_s
        if _count(orphans, "modified_s >= ?", oldest):
            # Only receipts that are listed after the answer tell whether an attempt that has just ended has committed.
            if none_is_running():
                _forget_named(sink, manifest, orphans)
            else:
                orphans.execute("DELETE FROM object WHERE modified_s >= ?", (oldest,))
        return n_deleted + _delete_objects(sink, orphans)


def _sweep_retired(sink: ObjectSink, manifest: Manifest) -> int:
    """Retired receipts first, then those of their objects that no other receipt names."""
    if not manifest.retired:
        return 0
    retired = frozenset(manifest.retired)
    names = sorted(entry.name for entry in sink.store.list(RECEIPTS) if entry.name in retired)
    if not names:
        return 0
    with closing(_scratch()) as objects:
        # Torn receipts are retired too; their parts become orphans.
        for _, receipt in read_receipts(sink, names):
            if receipt is not None:
                rows = [(part.name,) for part in receipt.parts + receipt.dead if is_ours(part.name)]
                objects.executemany("INSERT OR IGNORE INTO object VALUES (?, 0)", rows)
        _forget_named(sink, manifest, objects, but=retired)
        _delete(sink, names)
        return len(names) + _delete_objects(sink, objects)


def _scratch() -> sqlite3.Connection:
    """Names on disk: a sink may hold millions. SQLite removes the file by itself."""
    database = sqlite3.connect("", isolation_level=None)
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("BEGIN")
    database.execute("CREATE TABLE object (name TEXT PRIMARY KEY, modified_s REAL) WITHOUT ROWID")
    database.execute("CREATE TABLE listed (name TEXT PRIMARY KEY) WITHOUT ROWID")
    return database


def _forget_named(
    sink: ObjectSink, manifest: Manifest | None, objects: sqlite3.Connection, *, but: frozenset[str] = frozenset()
) -> None:
    """Take out what any receipt names, those of `but` left aside."""
    if not _count(objects, "?", 1):
        return
    for receipt in _all_receipts(sink, manifest, objects, but):
        if receipt is None:
            objects.execute("DELETE FROM object")  # a receipt that cannot be read may name any of them
            return
        rows = [(part.name,) for part in receipt.parts + receipt.dead]
        objects.executemany("DELETE FROM object WHERE name = ?", rows)


def _all_receipts(
    sink: ObjectSink, manifest: Manifest | None, scratch: sqlite3.Connection, but: frozenset[str]
) -> Iterator[Receipt | None]:
    """Every receipt that stands in the sink; the live ones from the manifest, so that few are read one by one."""
    scratch.execute("DELETE FROM listed")
    names = (entry.name for entry in sink.store.list(RECEIPTS) if parse_receipt_name(entry.name))
    scratch.executemany("INSERT OR IGNORE INTO listed VALUES (?)", ((name,) for name in names if name not in but))
    for name, receipt in sink.live(manifest):
        scratch.execute("DELETE FROM listed WHERE name = ?", (name,))
        yield receipt
    last = ""
    while rows := scratch.execute(
        "SELECT name FROM listed WHERE name > ? ORDER BY name LIMIT 1000", (last,)
    ).fetchall():
        last = rows[-1][0]
        for _, found in read_receipts(sink, [name for (name,) in rows]):
            yield found


def _count(database: sqlite3.Connection, where: str, value: float) -> int:
    return int(database.execute(f"SELECT count(*) FROM object WHERE {where}", (value,)).fetchone()[0])  # noqa: S608


def _delete_objects(sink: ObjectSink, objects: sqlite3.Connection) -> int:
    n_deleted = 0
    while names := [name for (name,) in objects.execute("SELECT name FROM object ORDER BY name LIMIT ?", (_CHUNK,))]:
        _delete(sink, names)
        objects.executemany("DELETE FROM object WHERE name = ?", ((name,) for name in names))
        n_deleted += len(names)
    return n_deleted


def _delete(sink: ObjectSink, names: list[str]) -> None:
    for start in range(0, len(names), _CHUNK):
        sink.delete(names[start : start + _CHUNK])
    sink.store.commit()
