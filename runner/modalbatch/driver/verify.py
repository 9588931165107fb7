"""The proof that a sink is whole, from storage alone. Runs on: both.

Owns what is compared: manifest, segments, receipts, parts, dead letters, counts, `_SUCCESS` (`guarantees.md`, sections
1 and 4). Writes nothing; believes nothing that it can read. Memory: one segment, a window of reads, and a temporary
SQLite file.
"""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from modalbatch.canonical import Json, encode, parse_json
from modalbatch.driver.content import MapChecks, check_content, map_checks
from modalbatch.driver.proof import Finding, Proof
from modalbatch.driver.runs import list_runs, state_code
from modalbatch.errors import BusyError, NotFoundError, StateError
from modalbatch.names import (
    CONTROL,
    OWNER,
    PARTS,
    SUCCESS,
    is_ours,
    manifest_name,
    parse_manifest_name,
    parse_receipt_name,
)
from modalbatch.records import ALL_LINES, Counts, Manifest, Part, Receipt, Segment, split_id, total
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import Source

#: Findings that are named; further ones are counted.
MOST_FINDINGS = 1000
#: Objects read at the same time, and waiting to be.
READERS = 8
_WINDOW = 64
#: Times that everything is read again because a run published meanwhile.
_TRIES = 3
_SCHEMA = """
CREATE TABLE object (name TEXT PRIMARY KEY, bytes INTEGER, live INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE TABLE named (name TEXT PRIMARY KEY, receipt TEXT) WITHOUT ROWID;
CREATE TABLE unread (name TEXT, bytes INTEGER, sha256 TEXT, records INTEGER);
CREATE TABLE unit (
  id TEXT PRIMARY KEY, stem TEXT, uri TEXT, identity TEXT, start INTEGER, end INTEGER, low INTEGER, high INTEGER,
  receipt TEXT
) WITHOUT ROWID;
CREATE INDEX unit_stem ON unit (stem);
"""


def verify(
    sink: ObjectSink,
    *,
    source: Source | None = None,
    reads_parts: bool = True,
    told: Callable[[int], None] | None = None,
    send: MapChecks | None = None,
) -> Proof:
    """Prove the sink, or say what is wrong with which object.

    `source`: also compare with what the source holds now. `reads_parts`: hash and count the content of every part, else
    only compare sizes. `told` hears how many objects were read. `send`: other containers read the parts.

    Raises:
        BusyError: runs keep publishing while it reads.
    """
    for _ in range(_TRIES):
        sink.refresh()
        verifier = _Verifier(sink, reads_parts, told, send)
        try:
            proof = verifier.run(source)
        finally:
            verifier.close()
        if proof.is_whole or sink.newest_number() == proof.manifest:
            return proof
    raise BusyError("runs keep changing the sink", hint="verify again when they have ended")


class _Verifier:
    """State of one reading of the sink."""

    def __init__(
        self, sink: ObjectSink, reads_parts: bool, told: Callable[[int], None] | None, send: MapChecks | None
    ) -> None:
        self._sink, self._reads_parts, self._told, self._send = sink, reads_parts, told, send
        self._problems: list[Finding] = []
        self._extras: list[Finding] = []
        self._n_problems = self._n_extras = self._n_read = 0
        self._n_receipts = self._n_parts = self._part_bytes = 0
        self._sums: Counter[str] = Counter()
        self._folder = tempfile.TemporaryDirectory(prefix="modalbatch-verify-")
        # A map reads its input in a thread of its own.
        path = Path(self._folder.name) / "verify.db"
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")
        self._pool = ThreadPoolExecutor(READERS, "modalbatch-verify")
        self._reading: deque[Future[Finding | None]] = deque()

    def close(self) -> None:
        """Closes: threads, and the temporary file."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._db.close()
        self._folder.cleanup()

    def run(self, source: Source | None) -> Proof:
        """Everything, once."""
        runs = list(list_runs(self._sink))
        self._check_owner()
        number = self._sink.newest_number()
        manifest = self._manifest(number, runs)
        self._list()
        is_complete = False
        if manifest:
            for segment in manifest.segments:
                for name, data in self._lines(segment):
                    self._check_line(name, data)
            self._settle(0)
            self._check_elsewhere()
            self._check_totals(manifest)
            self._check_coverage()
            is_complete = self._check_success(manifest, runs)
            self._find_orphans()
            if source:
                self._check_source(source)
        return Proof(
            manifest=number,
            is_complete=is_complete,
            n_receipts=self._n_receipts,
            n_parts=self._n_parts,
            part_bytes=self._part_bytes,
            counts=Counts.from_json(self._sums),
            problems=tuple(self._problems),
            n_problems=self._n_problems,
            extras=tuple(self._extras),
            n_extras=self._n_extras,
        )

    def _problem(self, kind: str, name: str, message: str) -> None:
        self._n_problems += 1
        if len(self._problems) < MOST_FINDINGS:
            self._problems.append(Finding(kind, name, message))

    def _extra(self, kind: str, name: str, message: str) -> None:
        self._n_extras += 1
        if len(self._extras) < MOST_FINDINGS:
            self._extras.append(Finding(kind, name, message))

    # -- the chain from the manifest to the receipts

    def _check_owner(self) -> None:
        try:
            if self._sink.owner() is None:
                self._problem("missing", OWNER, "it says whose sink this is")
        except StateError as error:
            self._problem("altered", OWNER, error.message)

    def _manifest(self, number: int, runs: list[Json]) -> Manifest | None:
        # A run's last words are no truth, but a manifest that they name was there.
        ends = [run["end"] for run in runs if run["end"]]
        known = max((end.get("manifest") or 0 for end in ends if end.get("status") == "done"), default=0)
        if known > number:
            self._problem("missing", manifest_name(known), "a run published it")
        if not number:
            if not known:
                self._problem("unpublished", manifest_name(1), "no run has published anything yet")
            return None
        try:
            return self._sink.manifest(number)
        except NotFoundError:
            self._problem("missing", manifest_name(number), "it was there a moment ago")
        except StateError as error:
            self._problem("altered", self._manifest_object(number), error.message)
        return None

    def _manifest_object(self, number: int) -> str:
        """The name under which a manifest stands, which holds its hash where creates are not atomic."""
        plain = manifest_name(number)
        entries = self._sink.store.list(plain.removesuffix(".json"))
        return next((entry.name for entry in entries if parse_manifest_name(entry.name)), plain)

    def _list(self) -> None:
        for entry in self._sink.store.list():
            if is_ours(entry.name):
                self._db.execute("INSERT OR IGNORE INTO object (name, bytes) VALUES (?, ?)", entry[:2])
            elif entry.name.rpartition("/")[2].startswith(PARTS) and not entry.name.startswith(CONTROL):
                self._extra("foreign", entry.name, "it is named like a part, but not by modalbatch")

    def _lines(self, segment: Segment) -> Iterator[tuple[str, Json]]:
        """Name and plain data of each receipt that a segment lists."""
        try:
            data = self._sink.store.read(segment.name)
        except NotFoundError:
            self._problem("missing", segment.name, f"the manifest lists {segment.receipts} splits in it")
            return
        if hashlib.sha256(data).hexdigest() != segment.sha256:
            self._problem("altered", segment.name, "its content is not what the manifest says")
            return
        lines = data.splitlines()
        if len(lines) != segment.receipts:
            message = f"it lists {len(lines)} splits, the manifest says {segment.receipts}"
            self._problem("inconsistent", segment.name, message)
        for line in lines:
            plain = parse_json(line, "manifest segment")
            yield str(plain.pop("name")), plain

    def _check_line(self, name: str, data: Json) -> None:
        """One live split: its receipt, its objects, its counts."""
        receipt = Receipt.from_json(data)
        self._n_receipts += 1
        self._sums.update(data["counts"])
        self._read(self._check_receipt, name, encode(data).encode())
        found = parse_receipt_name(name)
        is_named = found and (found.split, found.fp8, found.generation) == (
            receipt.split,
            receipt.fingerprint[:8],
            receipt.generation,
        )
        if (
            not is_named
            or split_id(receipt.units) != receipt.split
            or (found and found.attempt not in ("", receipt.attempt))
        ):
            self._problem("inconsistent", name, "its name is not that of its content")
        counts, out, dead = receipt.counts, _records(receipt.parts), _records(receipt.dead)
        if not counts.balances() or (out, dead) != (counts.out, counts.dead):
            message = (
                f"its counts do not add up: {encode(counts.to_json())}, {out} records and {dead} dead letters listed"
            )
            self._problem("inconsistent", name, message)
        if receipt.unit_counts and not (
            len(receipt.unit_counts) == len(receipt.units)
            and total(receipt.unit_counts) == counts
            and all(item.balances() for item in receipt.unit_counts)
        ):
            self._problem("inconsistent", name, "the counts of its inputs do not add up to its own")
        if receipt.spread and not _is_spread(receipt):
            self._problem("inconsistent", name, "where the records of its inputs lie does not add up to their counts")
        for unit in receipt.units:
            place = (unit.uri, unit.identity, unit.start, unit.end, unit.low, unit.high)
            row = (unit.id, unit.stem, *place, name)
            if not self._insert("unit", row):
                other = self._db.execute("SELECT receipt FROM unit WHERE id = ?", (unit.id,)).fetchone()[0]
                self._problem("duplicated", name, f"`{other}` covers `{unit.uri}` {unit.start}-{unit.end}, too")
        for part in receipt.parts:
            self._n_parts += 1
            self._part_bytes += part.bytes
        for part in receipt.parts + receipt.dead:
            if not self._insert("named", (part.name, name)):
                other = self._db.execute("SELECT receipt FROM named WHERE name = ?", (part.name,)).fetchone()[0]
                self._problem("duplicated", part.name, f"both `{other}` and `{name}` list it")
                continue
            self._check_part(part)

    def _insert(self, table: str, row: tuple[Any, ...]) -> bool:
        marks = ",".join("?" * len(row))
        return self._db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row).rowcount == 1  # noqa: S608

    def _check_part(self, part: Part) -> None:
        row = self._db.execute("SELECT bytes FROM object WHERE name = ?", (part.name,)).fetchone()
        if row is None:
            self._problem("missing", part.name, f"{part.records} records, {part.bytes} bytes")
            return
        self._db.execute("UPDATE object SET live = 1 WHERE name = ?", (part.name,))
        if row[0] != part.bytes:
            self._problem("altered", part.name, f"it has {row[0]} bytes, its receipt says {part.bytes}")
        elif self._reads_parts and self._send:
            self._insert("unread", part)
        elif self._reads_parts:
            self._read(check_content, self._sink.store, part)

    def _check_elsewhere(self) -> None:
        """Parts that other containers read, in batches of neighbours in the manifest."""
        if not self._send:
            return
        rows = self._db.execute("SELECT name, bytes, sha256, records FROM unread ORDER BY rowid")
        for finding in map_checks((Part(*row) for row in rows), self._send):
            self._problem(*finding)

    # -- reading, in threads

    def _read(self, check: Callable[..., Finding | None], *args: Any) -> None:
        self._reading.append(self._pool.submit(check, *args))
        self._settle(_WINDOW)

    def _settle(self, most: int) -> None:
        while len(self._reading) > most:
            finding = self._reading.popleft().result()
            self._n_read += 1
            if finding:
                self._problem(*finding)
            if self._told:
                self._told(self._n_read)

    def _check_receipt(self, name: str, expected: bytes) -> Finding | None:
        try:
            found = self._sink.store.read(name)
        except NotFoundError:
            return Finding("missing", name, "the manifest lists it")
        return None if found == expected else Finding("altered", name, "its content is not what the manifest says")

    # -- sums

    def _check_totals(self, manifest: Manifest) -> None:
        if self._n_problems:
            return  # what is broken is named already, and its sums would only say it again
        said = Counter(manifest.counts.to_json()), manifest.n_receipts, manifest.part_bytes
        found = self._sums, self._n_receipts, self._part_bytes
        if said != found:
            message = f"its sums are not those of its splits: {encode(said)} instead of {encode(found)}"
            self._problem("inconsistent", manifest_name(manifest.number), message)

    def _check_coverage(self) -> None:
        """No line of an input counts twice, none is left out between two pieces, and only one state is live."""
        overlaps = self._db.execute(
            "SELECT uri, start, end, receipt FROM (SELECT *, lag(end) OVER "
            "(PARTITION BY uri, identity ORDER BY start, end) AS before "
            "FROM (SELECT uri, identity, start, end, max(receipt) AS receipt FROM unit GROUP BY stem)) "
            "WHERE before > start"
        )
        for uri, start, end, receipt in overlaps:
            self._problem("duplicated", receipt, f"another split covers some of `{uri}` {start}-{end}, too")
        pieces = self._db.execute(
            "SELECT uri, start, end, low, high, receipt, before FROM (SELECT *, "
            "lag(high, 1, 0) OVER (PARTITION BY stem ORDER BY low, high) AS before FROM unit) WHERE before != low"
        )
        for uri, start, end, low, high, receipt, before in pieces:
            at = f"of `{uri}` {start}-{end}"
            if before > low:
                self._problem("duplicated", receipt, f"another split covers some of the lines {low}-{high} {at}, too")
            else:
                self._problem("missing", receipt, f"no split covers the lines {before}-{low} {at}")
        ends = "SELECT uri, start, end, max(high), receipt FROM unit GROUP BY stem HAVING max(high) < ?"
        for uri, start, end, high, receipt in self._db.execute(ends, (ALL_LINES,)):
            self._problem("missing", receipt, f"no split covers the lines from {high} on of `{uri}` {start}-{end}")
        twice = self._db.execute("SELECT uri, max(receipt) FROM unit GROUP BY uri HAVING count(DISTINCT identity) > 1")
        for uri, receipt in twice:
            self._problem("duplicated", receipt, f"two states of `{uri}` are live")

    def _check_success(self, manifest: Manifest, runs: list[Json]) -> bool:
        """Whether `_SUCCESS` stands, and names this manifest."""
        try:
            found = self._sink.store.read(SUCCESS)
        except NotFoundError:
            if _must_have_succeeded(manifest, runs):
                self._problem("missing", SUCCESS, "the last run ended with exit code 0")
            return False
        sha256 = hashlib.sha256(self._sink.manifest_bytes(manifest.number)).hexdigest()
        if found == encode({"manifest": manifest.number, "sha256": sha256}).encode():
            return True
        try:
            number = parse_json(found, "_SUCCESS").get("manifest")
        except StateError:
            number = None
        if isinstance(number, int) and 0 < number < manifest.number:
            self._problem("inconsistent", SUCCESS, f"it names manifest {number}, the newest is {manifest.number}")
        else:
            self._problem("altered", SUCCESS, f"it does not name manifest {manifest.number} with its hash")
        return False

    def _find_orphans(self) -> None:
        rows = "SELECT name FROM object WHERE NOT live AND name NOT IN (SELECT name FROM named) ORDER BY name"
        for (name,) in self._db.execute(rows):
            self._extra("orphan", name, "the manifest does not list it")

    def _check_source(self, source: Source) -> None:
        for unit in source.units():
            if self._db.execute("SELECT 1 FROM unit WHERE stem = ? LIMIT 1", (unit.id,)).fetchone():
                continue
            is_known = self._db.execute("SELECT 1 FROM unit WHERE uri = ? LIMIT 1", (unit.uri,)).fetchone()
            why = "it changed after it was processed" if is_known else "nothing of it was processed"
            self._problem("unprocessed", unit.uri, f"{why}: {unit.start}-{unit.end}")


def _must_have_succeeded(manifest: Manifest, runs: list[Json]) -> bool:
    """Whether a run left `_SUCCESS` and no other can have removed it: the newest ended well, and none is open."""
    ends = [run["end"] for run in sorted(runs, key=lambda run: float(run.get("started", 0)))]
    return bool(ends) and all(ends) and state_code(ends[-1]) == 0 and ends[-1].get("manifest") == manifest.number


def _is_spread(receipt: Receipt) -> bool:
    """Whether the rows of `spread` sum up to what the units gave."""
    if any(len(row) != len(receipt.unit_counts) for row in receipt.spread):
        return False
    return [sum(column) for column in zip(*receipt.spread, strict=True)] == [item.out for item in receipt.unit_counts]


def _records(parts: tuple[Part, ...]) -> int:
    return sum(part.records for part in parts)
