"""The driver's index: what is done and what is wanted, in a temporary SQLite file. Runs on: both.

Owns the answer to "which receipts are live". Memory: constant; a million splits live on the driver's disk, not in its
heap. It is thrown away after the run: the sink is the state.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from modalbatch.driver.cover import Piece, choose_pieces, gaps
from modalbatch.records import ALL_LINES, Counts, Receipt, Unit, encode, parse_receipt_name

_SCHEMA = """
CREATE TABLE object (name TEXT PRIMARY KEY, bytes INTEGER) WITHOUT ROWID;
CREATE TABLE receipt (
  name TEXT PRIMARY KEY, split TEXT, fp8 TEXT, generation INTEGER,
  live INTEGER DEFAULT 0,      -- listed by the newest manifest
  accepted INTEGER DEFAULT 0,  -- of a fingerprint whose results count as done
  chosen INTEGER DEFAULT 0,    -- live after this run
  fresh INTEGER DEFAULT 0,     -- written by this run
  kept INTEGER DEFAULT 0,      -- in a segment that stays as it is
  broken INTEGER DEFAULT 0,    -- of pieces, and what it names is gone
  stands INTEGER DEFAULT 0,    -- live, or in the place of what is: it stays where its input is gone
  void INTEGER DEFAULT 0,      -- another one took its place, or the newest manifest retires it
  replaces TEXT DEFAULT '',    -- name of the receipt whose place it takes
  json TEXT                    -- null: not read, of another fingerprint, or retired
) WITHOUT ROWID;
CREATE INDEX receipt_split ON receipt (split, fp8);
CREATE INDEX receipt_heir ON receipt (generation, name) WHERE replaces != '';
CREATE TABLE cover (unit TEXT PRIMARY KEY, uri TEXT, receipt TEXT, seen INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE INDEX cover_receipt ON cover (receipt);
CREATE TABLE piece (  -- of a divided unit, the stem; those of chosen receipts
  stem TEXT, low INTEGER, high INTEGER, unit TEXT, receipt TEXT, PRIMARY KEY (stem, low)
) WITHOUT ROWID;
CREATE INDEX piece_receipt ON piece (receipt);
CREATE TABLE loose (stem TEXT, low INTEGER, high INTEGER, receipt TEXT);  -- of usable receipts, not chosen yet
CREATE INDEX loose_stem ON loose (stem);
CREATE TABLE want (unit TEXT PRIMARY KEY, seq INTEGER, json TEXT) WITHOUT ROWID;
CREATE TABLE carry (unit TEXT PRIMARY KEY, receipt TEXT) WITHOUT ROWID;  -- gone, and its receipt is given up
CREATE INDEX carry_receipt ON carry (receipt);
CREATE TABLE listed (uri TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE was (uri TEXT, accepted INTEGER, PRIMARY KEY (uri, accepted)) WITHOUT ROWID;
CREATE TABLE lost (unit TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE same (unit TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE again (receipt TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID;  -- so many of its dead letters are retried
"""

#: Stems whose pieces stand for them.
_WHOLE = f"(SELECT stem FROM piece GROUP BY stem HAVING sum(high - low) = {ALL_LINES})"  # noqa: S608
_UNCOVERED = f"unit NOT IN (SELECT unit FROM cover) AND unit NOT IN {_WHOLE}"  # noqa: S608
#: Receipts with dead letters to be retried whose place no other one has taken.
OPEN_RETRIES = "FROM again JOIN receipt ON name = receipt WHERE chosen"

#: Every wanted unit with its reason, in listing order.
_REASONS = f"""
CREATE TEMP TABLE reason AS SELECT seq, uri, size, CASE
  WHEN EXISTS (SELECT 1 FROM cover WHERE cover.unit = wanted.unit) OR wanted.unit IN {_WHOLE} THEN 'kept'
  WHEN NOT EXISTS (SELECT 1 FROM was WHERE was.uri = wanted.uri) THEN 'new'
  WHEN EXISTS (SELECT 1 FROM lost WHERE lost.unit = wanted.unit) THEN 'lost'
  WHEN EXISTS (SELECT 1 FROM same WHERE same.unit = wanted.unit) THEN 'packed'
  WHEN EXISTS (SELECT 1 FROM was WHERE was.uri = wanted.uri AND accepted) THEN 'input'
  ELSE 'code' END AS why
FROM (SELECT unit, seq, json_extract(json, '$[0]') AS uri,
             json_extract(json, '$[4]') - json_extract(json, '$[3]') AS size FROM want) AS wanted
"""  # noqa: S608


class Tally(NamedTuple):
    """A plan in numbers, units each (see `plan`)."""

    #: Wanted and done.
    kept: int
    #: Wanted, not done, and nothing was ever done for this input.
    new: int
    #: Wanted, not done, and an older state of the same input is live …
    changed: int
    #: … of which so many because the handler or an option changed, not the input.
    by_code: int
    #: Inputs with live output that are gone; their output is kept or dropped as the spec says.
    removed: int


class Group(NamedTuple):
    """Wanted units that share a reason."""

    n_units: int = 0
    n_inputs: int = 0
    n_bytes: int = 0
    #: URIs of the first few inputs.
    examples: tuple[str, ...] = ()


class Reasons(NamedTuple):
    """A plan with its reasons: each wanted unit is in one group, and what is gone in the last."""

    kept: Group
    #: Nothing was ever done for the input.
    new: Group
    #: The input is another one than before …
    input: Group
    #: … or the handler or an option is …
    code: Group
    #: … or nothing is, but it was done in one pack with a changed input …
    packed: Group
    #: … or its output is not there any more.
    lost: Group
    #: Inputs with live output that are gone; in inputs only.
    removed: Group


class Carry(NamedTuple):
    """Units that are gone from the source, and whose output is copied out of a receipt that is given up."""

    receipt: str
    fingerprint: str
    units: list[Unit]


class Totals(NamedTuple):
    """Sums over the receipts that are live after this run."""

    counts: Counts
    n_receipts: int
    part_bytes: int


class Index:
    """One plan's working memory."""

    def __init__(self) -> None:
        # A database without a name: SQLite spills it into a file when the cache is full, and removes that by itself.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA cache_size = -16000")
        self._db.executescript("BEGIN;" + _SCHEMA)
        self._seq = 0
        #: Wanted units of which something was not done when they were noted.
        self.n_undone = 0
        #: Whether receipts that are neither live nor void are left alone: a retry knows nothing of their inputs.
        self.spares_others = False

    def close(self) -> None:
        """Closes: the database, and with it its file."""
        self._db.close()

    # -- what the sink holds

    def add_object(self, name: str, n_bytes: int) -> None:
        """A part or dead-letter object that exists."""
        self._db.execute("INSERT OR REPLACE INTO object VALUES (?, ?)", (name, n_bytes))

    def forget_objects(self) -> None:
        """Before the sink is listed again."""
        self._db.execute("DELETE FROM object")

    def add_receipt(self, name: str) -> None:
        """A receipt's name that the sink lists; without its content it counts for nothing."""
        found = parse_receipt_name(name)
        if found:
            sql = "INSERT OR IGNORE INTO receipt (name, split, fp8, generation) VALUES (?, ?, ?, ?)"
            self._db.execute(sql, (name, found.split, found.fp8, found.generation))

    def fill_receipt(self, name: str, receipt: Receipt, *, live: bool, accepted: bool) -> bool:
        """The content of a listed receipt; False when the sink does not list it: then it is void."""
        sql = "UPDATE receipt SET live = ?, stands = ?, accepted = ?, replaces = ?, json = ? WHERE name = ?"
        values = (int(live), int(live), int(accepted), receipt.replaces, encode(receipt.to_json()), name)
        found = self._db.execute(sql, values).rowcount == 1
        if live:
            rows = [(unit.uri, int(accepted)) for unit in receipt.units]
            self._db.executemany("INSERT OR IGNORE INTO was VALUES (?, ?)", rows)
        return found

    def unread(self, fp8s: Iterable[str]) -> Iterator[str]:
        """Listed receipts of these fingerprints whose content is not known; lazy, while contents are filled in."""
        fp8s, last = list(fp8s), ""
        marks = ",".join("?" * len(fp8s))
        sql = f"SELECT name FROM receipt WHERE json IS NULL AND fp8 IN ({marks}) AND name > ? ORDER BY name LIMIT 1000"  # noqa: S608
        while rows := self._db.execute(sql, (*fp8s, last)).fetchall():
            yield from (name for (name,) in rows)
            last = rows[-1][0]

    def choose(self) -> None:
        """Decide which receipts count: usable ones, manifest first, then generation, no line twice.

        One that was written to take the place of a chosen one does so, and another one may take its place in turn. Of
        receipts that no manifest lists, those with pieces of units come last: whole units are never worse.
        """
        self._db.execute("UPDATE receipt SET chosen = 0")
        for table in ("cover", "piece", "loose"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608
        # Names alone are sorted: contents would fill the memory that SQLite sorts in.
        which = "live" if self.spares_others else "accepted"
        rows = self._db.execute(
            f"SELECT name, live FROM receipt WHERE {which} ORDER BY live DESC, generation DESC, name"  # noqa: S608
        )
        for name, is_live in rows:
            receipt = self.receipt(name)
            pieces = [] if is_live else [unit for unit in receipt.units if unit.is_piece]
            if not pieces:
                self._consider(name, receipt)
            elif not self.has_parts(receipt):
                self._db.execute("UPDATE receipt SET broken = 1 WHERE name = ?", (name,))
            else:
                values = [(unit.stem, unit.low, unit.high, name) for unit in pieces]
                self._db.executemany("INSERT INTO loose VALUES (?, ?, ?, ?)", values)
        heirs = "SELECT name FROM receipt WHERE replaces != '' AND accepted AND NOT live ORDER BY generation, name"
        for (name,) in self._db.execute(heirs).fetchall():
            if not self._is_chosen(name):
                self._consider(name, self.receipt(name))
        self._choose_loose()

    def _choose_loose(self) -> None:
        for (stem,) in self._db.execute("SELECT DISTINCT stem FROM loose ORDER BY stem").fetchall():
            self._choose_pieces(stem)

    def _choose_pieces(self, stem: str) -> None:
        """Of a divided unit: the pieces that are chosen already stay, and those are added that fit to them."""
        rows = "SELECT low, high, receipt FROM {} WHERE stem = ?"
        fixed = [Piece(*row) for row in self._db.execute(rows.format("piece"), (stem,))]
        loose = [Piece(*row) for row in self._db.execute(rows.format("loose"), (stem,))]
        free = [item for item in loose if not any(item.low < it.high and it.low < item.high for it in fixed)]
        for piece in choose_pieces([*fixed, *free]):
            if not self._is_chosen(piece.receipt):
                self._consider(piece.receipt, self.receipt(piece.receipt))

    def receipt(self, name: str) -> Receipt:
        """The receipt of that name. Order: it was filled in."""
        (text,) = self._db.execute("SELECT json FROM receipt WHERE name = ?", (name,)).fetchone()
        return receipt_of(text)

    def _is_chosen(self, name: str) -> bool:
        return self._db.execute("SELECT 1 FROM receipt WHERE name = ? AND chosen", (name,)).fetchone() is not None

    def has_parts(self, receipt: Receipt) -> bool:
        """Whether every object that the receipt names is there with its size."""
        for part in receipt.parts + receipt.dead:
            row = self._db.execute("SELECT bytes FROM object WHERE name = ?", (part.name,)).fetchone()
            if row is None or row[0] != part.bytes:
                return False
        return True

    def _consider(self, name: str, receipt: Receipt) -> bool:
        if not self.has_parts(receipt):
            return False
        ids = [unit.id for unit in receipt.units]
        if self._overlaps(receipt.units, ids) and not self._makes_room(receipt, ids):
            return False  # another receipt, better or equal, has some of these inputs
        if receipt.replaces:
            self._inherit(name, receipt.replaces)
        self._db.execute("UPDATE receipt SET chosen = 1 WHERE name = ?", (name,))
        self._db.executemany(
            "INSERT INTO cover (unit, uri, receipt) VALUES (?, ?, ?)",
            [(unit_id, unit.uri, name) for unit_id, unit in zip(ids, receipt.units, strict=True)],
        )
        pieces = [(unit.stem, unit.low, unit.high, unit.id, name) for unit in receipt.units if unit.is_piece]
        self._db.executemany("INSERT INTO piece VALUES (?, ?, ?, ?, ?)", pieces)
        return True

    def _overlaps(self, units: Iterable[Unit], ids: list[str]) -> bool:
        """Whether a chosen receipt has any line of these units."""
        marks = ",".join("?" * len(ids))
        for table, column in (("cover", "unit"), ("piece", "stem")):
            sql = f"SELECT 1 FROM {table} WHERE {column} IN ({marks}) LIMIT 1"  # noqa: S608
            if self._db.execute(sql, ids).fetchone():
                return True
        for unit in units:
            if unit.is_piece:
                lines = (unit.stem, unit.high, unit.low)
                sql = "SELECT 1 FROM piece WHERE stem = ? AND low < ? AND high > ?"
                whole = "SELECT 1 FROM cover WHERE unit = ?"
                if self._db.execute(sql, lines).fetchone() or self._db.execute(whole, lines[:1]).fetchone():
                    return True
        return False

    def _makes_room(self, receipt: Receipt, ids: list[str]) -> bool:
        """Give up the receipt that this one replaces; False where another one has these inputs."""
        covered = self._db.execute("SELECT unit FROM cover WHERE receipt = ?", (receipt.replaces,)).fetchall()
        if {unit for (unit,) in covered} != set(ids):
            return False
        for table in ("cover", "piece"):
            self._db.execute(f"DELETE FROM {table} WHERE receipt = ?", (receipt.replaces,))  # noqa: S608
        return True

    def _inherit(self, name: str, earlier: str) -> None:
        """The receipt stands if one that it replaces did, or one that this one replaces in turn."""
        sql = "SELECT stands, replaces FROM receipt WHERE name = ? AND NOT void"
        while row := self._db.execute(sql, (earlier,)).fetchone():
            self._db.execute("UPDATE receipt SET chosen = 0, stands = 0, void = 1 WHERE name = ?", (earlier,))
            if row[0]:
                self._db.execute("UPDATE receipt SET stands = 1 WHERE name = ?", (name,))
            earlier = row[1]

    def accept(self, name: str, receipt: Receipt) -> bool:
        """A receipt of this run; its parts were verified when they were written, and are listed again later."""
        for part in receipt.parts + receipt.dead:
            self.add_object(part.name, part.bytes)
        self.add_receipt(name)
        self.fill_receipt(name, receipt, live=False, accepted=True)
        self._db.execute("UPDATE receipt SET fresh = 1 WHERE name = ?", (name,))
        done = self._consider(name, receipt)
        if done:
            self._db.executemany("UPDATE cover SET seen = 1 WHERE unit = ?", [(unit.id,) for unit in receipt.units])
        return done

    # -- what the source holds

    def want(self, unit: Unit) -> bool:
        """Note a wanted unit; True iff some of it is not done (`undone`)."""
        unit_id = unit.id
        self._seq += 1
        text = json.dumps(unit.to_json())
        self._db.execute("INSERT OR IGNORE INTO want VALUES (?, ?, ?)", (unit_id, self._seq, text))
        self._db.execute("INSERT OR IGNORE INTO listed VALUES (?)", (unit.uri,))
        if self._db.execute("UPDATE cover SET seen = 1 WHERE unit = ?", (unit_id,)).rowcount:
            return False
        pieces = "SELECT unit FROM piece WHERE stem = ?"
        self._db.execute(f"UPDATE cover SET seen = 1 WHERE unit IN ({pieces})", (unit_id,))  # noqa: S608
        is_missing = next(self.undone(unit), None) is not None
        self.n_undone += is_missing
        return is_missing

    def undone(self, unit: Unit) -> Iterator[Unit]:
        """What of a wanted unit that is not done no chosen receipt covers: itself, or pieces of it."""
        rows = "SELECT low, high FROM piece WHERE stem = ? ORDER BY low"
        for low, high in gaps(self._db.execute(rows, (unit.id,)).fetchall()):
            yield unit.piece(low, high)

    def settle_removed(self, on_removed: str) -> None:
        """After the whole source was listed: give up receipts that mix what is wanted with what is not any more.

        A receipt stays iff each of its units is wanted, or stands while its input is gone and `on_removed` is `keep`.
        What an older handler made of an input that is gone stays too: nobody can make it again. A receipt that no
        manifest ever listed does not: an input could have one for each of its earlier states. Where a live receipt is
        given up for some of its units, those that are gone are carried over (`carries`).
        """
        keep = on_removed == "keep"
        given_up = "AND (NOT stands OR EXISTS (SELECT 1 FROM listed WHERE listed.uri = cover.uri))" if keep else ""
        n_given_up = self._db.execute(
            "UPDATE receipt SET chosen = 0 WHERE name IN "  # noqa: S608
            f"(SELECT receipt FROM cover JOIN receipt ON name = receipt WHERE seen = 0 {given_up})"
        ).rowcount
        for table in ("cover", "piece"):
            sql = f"DELETE FROM {table} WHERE receipt IN (SELECT name FROM receipt WHERE NOT chosen)"  # noqa: S608
            self._db.execute(sql)
        if n_given_up:
            self._choose_instead()
        if keep and self._count("SELECT EXISTS (SELECT 1 FROM was WHERE uri NOT IN (SELECT uri FROM listed))"):
            self._keep_gone()

    def _choose_instead(self) -> None:
        """What a run that died before its manifest did in place of what is given up now."""
        rows = self._db.execute("SELECT name FROM receipt WHERE accepted AND NOT chosen ORDER BY generation DESC, name")
        for (name,) in rows:
            receipt = self.receipt(name)
            if not all(self._is_wanted(unit.stem) for unit in receipt.units):
                self._db.execute("DELETE FROM loose WHERE receipt = ?", (name,))
            elif not any(unit.is_piece for unit in receipt.units):
                self._consider(name, receipt)
        self._choose_loose()

    def _is_wanted(self, unit_id: str) -> bool:
        return self._db.execute("SELECT 1 FROM want WHERE unit = ?", (unit_id,)).fetchone() is not None

    def _keep_gone(self) -> None:
        last = ""
        sql = "SELECT name, json FROM receipt WHERE stands AND NOT chosen AND name > ? ORDER BY name"
        while rows := self._db.execute(f"{sql} LIMIT 1000", (last,)).fetchall():
            last = rows[-1][0]
            for name, text in rows:
                receipt = receipt_of(text)
                gone = [unit for unit in receipt.units if not self._is_listed(unit.uri)]
                if len(gone) == len(receipt.units):
                    self._consider(name, receipt)
                elif gone and len(receipt.unit_counts) == len(receipt.units) and self.has_parts(receipt):
                    values = [(unit.id, name) for unit in gone]
                    self._db.executemany("INSERT OR IGNORE INTO carry VALUES (?, ?)", values)

    def carries(self) -> Iterator[Carry]:
        """What is to be carried over and no chosen receipt covers, by receipt; lazy, while receipts are accepted."""
        later = f"SELECT receipt FROM carry WHERE {_UNCOVERED} AND receipt > ? ORDER BY receipt LIMIT 1"  # noqa: S608
        name = ""
        while row := self._db.execute(later, (name,)).fetchone():
            (name,) = row
            sql = f"SELECT unit FROM carry WHERE receipt = ? AND {_UNCOVERED}"  # noqa: S608
            units = {unit for (unit,) in self._db.execute(sql, (name,))}
            receipt = self.receipt(name)
            yield Carry(name, receipt.fingerprint, [unit for unit in receipt.units if unit.id in units])

    def _is_listed(self, uri: str) -> bool:
        return self._db.execute("SELECT 1 FROM listed WHERE uri = ?", (uri,)).fetchone() is not None

    def missing(self) -> Iterator[Unit]:
        """Wanted units, and pieces of them, that no chosen receipt covers, in listing order."""
        for (text,) in self._db.execute(f"SELECT json FROM want WHERE {_UNCOVERED} ORDER BY seq"):  # noqa: S608
            yield from self.undone(Unit(*json.loads(text)))

    def n_missing(self) -> int:
        """How many wanted units, and units to be carried over, no chosen receipt covers; and receipts to be retried."""
        n_to_carry = self._count(f"SELECT count(*) FROM carry WHERE {_UNCOVERED}")  # noqa: S608
        return self._n_todo() + n_to_carry + self._count(f"SELECT count(*) {OPEN_RETRIES}")

    def _n_todo(self) -> int:
        return self._count(f"SELECT count(*) FROM want WHERE {_UNCOVERED}")  # noqa: S608

    def n_wanted(self) -> int:
        """How many units the source has."""
        return self._count("SELECT count(*) FROM want")

    def n_inputs(self) -> int:
        """How many inputs the source has."""
        return self._count("SELECT count(*) FROM listed")

    def generation(self, split: str, fingerprint: str, at_least: int) -> int:
        """The generation for a new attempt: higher than every receipt of the split that is void.

        And higher than every void receipt of pieces: where a split will be divided, nobody knows yet.
        """
        sql = "SELECT max(generation) FROM receipt WHERE fp8 = ? AND (split = ? OR broken)"
        highest = self._db.execute(sql, (fingerprint[:8], split)).fetchone()[0]
        return max(at_least, (highest or 0) + 1)

    # -- what is retried (see `driver.again`)

    def query(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Rows, for who keeps a table of its own here."""
        return self._db.execute(sql, values)

    # -- the outcome

    def has_fresh(self) -> bool:
        """Whether this run adds receipts."""
        return bool(self._count("SELECT EXISTS (SELECT 1 FROM receipt WHERE chosen AND fresh)"))

    def keep_if_chosen(self, names: list[str]) -> bool:
        """Mark all of these receipts as kept, if each is chosen."""
        chosen = all(
            self._db.execute("SELECT 1 FROM receipt WHERE name = ? AND chosen", (name,)).fetchone() for name in names
        )
        if chosen:
            self._db.executemany("UPDATE receipt SET kept = 1 WHERE name = ?", [(name,) for name in names])
        return chosen

    def has_rest(self) -> bool:
        """Whether any chosen receipt is not kept."""
        return bool(self._count("SELECT EXISTS (SELECT 1 FROM receipt WHERE chosen AND NOT kept)"))

    def rest(self) -> Iterator[tuple[str, Receipt]]:
        """Chosen receipts that are not kept, by name."""
        for name, text in self._db.execute("SELECT name, json FROM receipt WHERE chosen AND NOT kept ORDER BY name"):
            yield name, receipt_of(text)

    def unchosen(self) -> Iterator[str]:
        """Receipts seen at planning that are not live after this run, by name."""
        which = "NOT chosen AND NOT fresh" + " AND (live OR void)" * self.spares_others
        for (name,) in self._db.execute(f"SELECT name FROM receipt WHERE {which} ORDER BY name"):  # noqa: S608
            yield name

    def totals(self) -> Totals:
        """Sums over all chosen receipts."""
        totals: Counter[str] = Counter()
        n_receipts = n_bytes = 0
        for (text,) in self._db.execute("SELECT json FROM receipt WHERE chosen"):
            receipt = json.loads(text)
            totals.update(receipt["counts"])
            n_bytes += sum(part[1] for part in receipt["parts"])
            n_receipts += 1
        return Totals(Counts.from_json(totals), n_receipts, n_bytes)

    def lost(self) -> list[str]:
        """Chosen receipts whose parts, as listed now, are not all there."""
        rows = self._db.execute("SELECT name, json FROM receipt WHERE chosen AND fresh")
        return [name for name, text in rows if not self.has_parts(receipt_of(text))]

    def tally(self) -> Tally:
        """The plan in numbers; after `settle_removed`."""
        missing = f"SELECT json_extract(json, '$[0]') AS uri FROM want WHERE {_UNCOVERED}"  # noqa: S608
        kept = self.n_wanted() - self._n_todo()
        changed = self._count(f"SELECT count(*) FROM ({missing}) WHERE uri IN (SELECT uri FROM was)")  # noqa: S608
        by_code = self._count(
            f"SELECT count(*) FROM ({missing}) WHERE uri IN (SELECT uri FROM was) "  # noqa: S608
            "AND uri NOT IN (SELECT uri FROM was WHERE accepted)"
        )
        removed = self._count("SELECT count(DISTINCT uri) FROM was WHERE uri NOT IN (SELECT uri FROM listed)")
        return Tally(kept, self._n_todo() - changed, changed, by_code, removed)

    def reasons(self, n_examples: int) -> Reasons:
        """The plan with its reasons; after `settle_removed`."""
        rows = self._db.execute("SELECT json FROM receipt WHERE live AND accepted AND NOT chosen")
        for (text,) in rows:
            receipt = receipt_of(text)
            table = "same" if self.has_parts(receipt) else "lost"
            ids = [(unit.stem,) for unit in receipt.units]
            self._db.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?)", ids)  # noqa: S608
        self._db.execute(_REASONS)
        sums = "SELECT why, count(*), count(DISTINCT uri), sum(size) FROM reason GROUP BY why"
        some = "SELECT uri FROM reason WHERE why = ? GROUP BY uri ORDER BY min(seq) LIMIT ?"
        groups = {
            why: Group(n_units, n_inputs, n_bytes, tuple(uri for (uri,) in self._db.execute(some, (why, n_examples))))
            for why, n_units, n_inputs, n_bytes in self._db.execute(sums).fetchall()
        }
        self._db.execute("DROP TABLE reason")
        gone = "FROM (SELECT DISTINCT uri FROM was WHERE uri NOT IN (SELECT uri FROM listed))"
        names = self._db.execute(f"SELECT uri {gone} ORDER BY uri LIMIT ?", (n_examples,))
        groups["removed"] = Group(0, self._count(f"SELECT count(*) {gone}"), 0, tuple(uri for (uri,) in names))
        return Reasons(**{why: groups.get(why, Group()) for why in Reasons._fields})

    def _count(self, sql: str) -> int:
        return int(self._db.execute(sql).fetchone()[0])


def receipt_of(text: str) -> Receipt:
    """A receipt from the index."""
    return Receipt.from_json(json.loads(text))
