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

from modalbatch.canonical import encode
from modalbatch.driver.cover import Piece, choose_pieces, gaps
from modalbatch.driver.tables import open_database
from modalbatch.names import parse_receipt_name
from modalbatch.records import ALL_LINES, Counts, Receipt, Unit

#: Stems whose pieces stand for them.
WHOLE = f"(SELECT stem FROM piece GROUP BY stem HAVING sum(high - low) = {ALL_LINES})"  # noqa: S608
UNCOVERED = f"unit NOT IN (SELECT unit FROM cover) AND unit NOT IN {WHOLE}"  # noqa: S608
#: Receipts with dead letters to be retried whose place no other one has taken.
OPEN_RETRIES = "FROM again JOIN receipt ON name = receipt WHERE chosen"


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

    def __init__(self, database: sqlite3.Connection | None = None) -> None:
        """`database`: one of `open_database`."""
        self._db = database or open_database()
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
            pieces = [
                (unit.stem, unit.high - unit.low, name if found else "") for unit in receipt.units if unit.is_piece
            ]
            self._db.executemany("INSERT INTO lived VALUES (?, ?, ?)", pieces)
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
        for table in ("cover", "piece", "loose", "rival"):
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
                if not self.consider(name, receipt) and self.has_parts(receipt):
                    self._db.executemany("INSERT OR IGNORE INTO rival VALUES (?)", [(it.id,) for it in receipt.units])
            elif not self.has_parts(receipt):
                self._db.execute("UPDATE receipt SET broken = 1 WHERE name = ?", (name,))
            else:
                values = [(unit.stem, unit.low, unit.high, name) for unit in pieces]
                self._db.executemany("INSERT INTO loose VALUES (?, ?, ?, ?)", values)
        heirs = "SELECT name FROM receipt WHERE replaces != '' AND accepted AND NOT live ORDER BY generation, name"
        for (name,) in self._db.execute(heirs).fetchall():
            if not self._is_chosen(name):
                self.consider(name, self.receipt(name))
        self.choose_loose()

    def choose_loose(self) -> None:
        """Of the receipts with pieces that are not chosen yet, those that fit together."""
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
                self.consider(piece.receipt, self.receipt(piece.receipt))

    def receipt(self, name: str) -> Receipt:
        """The receipt of that name. Order: it was filled in."""
        (text,) = self._db.execute("SELECT json FROM receipt WHERE name = ?", (name,)).fetchone()
        return receipt_of(text)

    def has_receipt(self, name: str) -> bool:
        """Whether a receipt of that name was listed or accepted."""
        return self._db.execute("SELECT 1 FROM receipt WHERE name = ?", (name,)).fetchone() is not None

    def _is_chosen(self, name: str) -> bool:
        return self._db.execute("SELECT 1 FROM receipt WHERE name = ? AND chosen", (name,)).fetchone() is not None

    def has_parts(self, receipt: Receipt) -> bool:
        """Whether every object that the receipt names is there with its size."""
        for part in receipt.parts + receipt.dead:
            row = self._db.execute("SELECT bytes FROM object WHERE name = ?", (part.name,)).fetchone()
            if row is None or row[0] != part.bytes:
                return False
        return True

    def consider(self, name: str, receipt: Receipt) -> bool:
        """Choose a receipt if what it names is there and no chosen one has any of its lines; whether it is chosen."""
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
        done = self.consider(name, receipt)
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

    def wants(self, units: Iterable[Unit]) -> bool:
        """Whether the source has all of these units, or what they are pieces of."""
        sql = "SELECT 1 FROM want WHERE unit = ?"
        return all(self._db.execute(sql, (unit.stem,)).fetchone() for unit in units)

    def may_be_done(self, unit: Unit) -> bool:
        """Whether a receipt has it that counts if the source proves to lack what the chosen one has beside it."""
        return self._db.execute("SELECT 1 FROM rival WHERE unit = ?", (unit.id,)).fetchone() is not None

    def undone(self, unit: Unit) -> Iterator[Unit]:
        """What of a wanted unit that is not done no chosen receipt covers: itself, or pieces of it."""
        rows = "SELECT low, high FROM piece WHERE stem = ? ORDER BY low"
        for low, high in gaps(self._db.execute(rows, (unit.id,)).fetchall()):
            yield unit.piece(low, high)

    def carries(self) -> Iterator[Carry]:
        """What is to be carried over and no chosen receipt covers, by receipt; lazy, while receipts are accepted."""
        later = f"SELECT receipt FROM carry WHERE {UNCOVERED} AND receipt > ? ORDER BY receipt LIMIT 1"  # noqa: S608
        name = ""
        while row := self._db.execute(later, (name,)).fetchone():
            (name,) = row
            sql = f"SELECT unit FROM carry WHERE receipt = ? AND {UNCOVERED}"  # noqa: S608
            units = {unit for (unit,) in self._db.execute(sql, (name,))}
            receipt = self.receipt(name)
            yield Carry(name, receipt.fingerprint, [unit for unit in receipt.units if unit.id in units])

    def missing(self) -> Iterator[Unit]:
        """Wanted units, and pieces of them, that no chosen receipt covers, in listing order."""
        for (text,) in self._db.execute(f"SELECT json FROM want WHERE {UNCOVERED} ORDER BY seq"):  # noqa: S608
            yield from self.undone(Unit(*json.loads(text)))

    def n_missing(self) -> int:
        """How many wanted units, and units to be carried over, no chosen receipt covers; and receipts to be retried."""
        n_to_carry = self.count(f"SELECT count(*) FROM carry WHERE {UNCOVERED}")  # noqa: S608
        return self.n_todo() + n_to_carry + self.count(f"SELECT count(*) {OPEN_RETRIES}")

    def n_todo(self) -> int:
        """How many wanted units no chosen receipt covers."""
        return self.count(f"SELECT count(*) FROM want WHERE {UNCOVERED}")  # noqa: S608

    def n_wanted(self) -> int:
        """How many units the source has."""
        return self.count("SELECT count(*) FROM want")

    def n_inputs(self) -> int:
        """How many inputs the source has."""
        return self.count("SELECT count(*) FROM listed")

    def generation(self, split: str, fingerprint: str, at_least: int) -> int:
        """The generation for a new attempt: higher than every receipt of the split that is void.

        And higher than every void receipt of pieces: where a split will be divided, nobody knows yet.
        """
        # One by one: together they would look at every receipt, for each split.
        sql = "SELECT max(generation) FROM receipt WHERE {} AND fp8 = ?"
        own = self._db.execute(sql.format("split = ?"), (split, fingerprint[:8])).fetchone()[0]
        broken = self._db.execute(sql.format("broken"), (fingerprint[:8],)).fetchone()[0]
        return max(at_least, (own or 0) + 1, (broken or 0) + 1)

    def query(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Rows, for who keeps a table of its own here: `driver.again`, `driver.gone`, `driver.tally`."""
        return self._db.execute(sql, values)

    def insert(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Rows into a table; those that are there stay."""
        for row in rows:
            marks = ",".join("?" * len(row))
            self._db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608

    # -- the outcome

    def has_fresh(self) -> bool:
        """Whether this run adds receipts."""
        return bool(self.count("SELECT EXISTS (SELECT 1 FROM receipt WHERE chosen AND fresh)"))

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
        return bool(self.count("SELECT EXISTS (SELECT 1 FROM receipt WHERE chosen AND NOT kept)"))

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

    def count(self, sql: str) -> int:
        """The number that a query asks for."""
        return int(self._db.execute(sql).fetchone()[0])


def receipt_of(text: str) -> Receipt:
    """A receipt from the index."""
    return Receipt.from_json(json.loads(text))
