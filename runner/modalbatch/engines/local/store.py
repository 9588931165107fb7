"""What an engine remembers across restarts: objects, names, dict entries, queue items, calls. Runs on: laptop.

Owns `home/engine/state.db`. Values are serialised messages or JSON; meaning is given by their users. A SIGKILL of the
engine loses nothing (write-ahead log); only a crash of the machine may lose the last writes.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_SCHEMA = """
create table if not exists object (kind text, id text primary key, data blob, created_at real) without rowid;
create table if not exists name (kind text, environment text, name text, id text, created_at real,
    primary key (kind, environment, name)) without rowid;
create table if not exists entry (dict_id text, key blob, value blob, primary key (dict_id, key));
create table if not exists item (number integer primary key autoincrement, queue_id text, part blob, value blob);
create index if not exists item_by_queue on item (queue_id, part, number);
create table if not exists input (call_id text, idx integer, data blob, primary key (call_id, idx)) without rowid;
create table if not exists output (call_id text, idx integer, data blob, created_at real,
    primary key (call_id, idx)) without rowid;
"""


class Store:
    """SQLite behind a few small tables; every write is its own transaction."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=off")
        self._db.executescript(_SCHEMA)
        with contextlib.suppress(sqlite3.OperationalError):  # a file of an earlier version lacks it
            self._db.execute("alter table output add column created_at real")

    def close(self) -> None:
        """Ends the use of the file."""
        self._db.close()

    def put(self, kind: str, object_id: str, data: bytes) -> None:
        """Keeps an object; an older one of that id is replaced."""
        self._db.execute(
            "insert into object values (?, ?, ?, ?) on conflict (id) do update set data = excluded.data",
            (kind, object_id, data, self._now()),
        )

    def find(self, kind: str, object_id: str) -> bytes | None:
        """An object's data."""
        row = self._db.execute("select data from object where id = ? and kind = ?", (object_id, kind)).fetchone()
        return row[0] if row else None

    def created_at(self, object_id: str) -> float:
        """When an object was made, as unix time; 0 for an unknown one."""
        row = self._db.execute("select created_at from object where id = ?", (object_id,)).fetchone()
        return float(row[0]) if row else 0.0

    def all(self, kind: str) -> list[tuple[str, bytes]]:
        """Every object of a kind as (id, data), oldest first."""
        return self._db.execute("select id, data from object where kind = ? order by created_at", (kind,)).fetchall()

    def drop(self, object_id: str) -> None:
        """Forgets an object, its names, and the entries or items in it."""
        self._db.execute("delete from object where id = ?", (object_id,))
        self._db.execute("delete from name where id = ?", (object_id,))
        self._db.execute("delete from entry where dict_id = ?", (object_id,))
        self._db.execute("delete from item where queue_id = ?", (object_id,))

    def drop_nameless(self, kind: str) -> None:
        """Forgets the objects of a kind that have no name: whoever made them ended with an earlier engine."""
        rows = self._db.execute(
            "select id from object where kind = ? and id not in (select id from name where kind = ?)", (kind, kind)
        ).fetchall()
        for (object_id,) in rows:
            self.drop(object_id)

    def bind(self, kind: str, environment: str, name: str, object_id: str) -> None:
        """Gives a name to an object, taking it from another one if need be."""
        self._db.execute(
            "insert into name values (?, ?, ?, ?, ?) on conflict do update set id = excluded.id",
            (kind, environment, name, object_id, self._now()),
        )

    def unbind(self, kind: str, environment: str, name: str) -> None:
        """Frees a name."""
        self._db.execute("delete from name where kind = ? and environment = ? and name = ?", (kind, environment, name))

    def resolve(self, kind: str, environment: str, name: str) -> str | None:
        """The id behind a name."""
        row = self._db.execute(
            "select id from name where kind = ? and environment = ? and name = ?", (kind, environment, name)
        ).fetchone()
        return row[0] if row else None

    def has_name(self, object_id: str) -> bool:
        """Whether an object has a name."""
        return self._db.execute("select 1 from name where id = ?", (object_id,)).fetchone() is not None

    def names(self, kind: str, environment: str) -> list[tuple[str, str, float]]:
        """The names of a kind in an environment as (name, id, unix time of creation), newest first."""
        return self._db.execute(
            "select name, id, created_at from name where kind = ? and environment = ? order by created_at desc",
            (kind, environment),
        ).fetchall()

    def set_entry(self, dict_id: str, key: bytes, value: bytes, *, keep: bool = False) -> bool:
        """Writes one dict entry; with `keep` an existing one stays. True when something was written."""
        rule = "nothing" if keep else "update set value = excluded.value"
        written = self._db.execute(f"insert into entry values (?, ?, ?) on conflict do {rule}", (dict_id, key, value))  # noqa: S608
        return written.rowcount > 0

    def entry(self, dict_id: str, key: bytes) -> bytes | None:
        """One dict entry's value."""
        row = self._db.execute("select value from entry where dict_id = ? and key = ?", (dict_id, key)).fetchone()
        return row[0] if row else None

    def drop_entries(self, dict_id: str, key: bytes | None = None) -> None:
        """Removes one entry, or all of a dict."""
        if key is None:
            self._db.execute("delete from entry where dict_id = ?", (dict_id,))
        else:
            self._db.execute("delete from entry where dict_id = ? and key = ?", (dict_id, key))

    def n_entries(self, dict_id: str) -> int:
        """How many entries a dict has."""
        return int(self._db.execute("select count(*) from entry where dict_id = ?", (dict_id,)).fetchone()[0])

    def entries(self, dict_id: str) -> Iterator[tuple[bytes, bytes]]:
        """A dict's entries in the order of their first insertion; lazy, single pass."""
        yield from self._db.execute("select key, value from entry where dict_id = ? order by rowid", (dict_id,))

    def add_items(self, queue_id: str, part: bytes, values: Iterable[bytes]) -> None:
        """Adds items at the end of a queue's partition: all of them, or none if we are killed."""
        self._db.execute("begin")
        rows = ((queue_id, part, value) for value in values)
        self._db.executemany("insert into item (queue_id, part, value) values (?, ?, ?)", rows)
        self._db.execute("commit")

    def items(self, queue_id: str, part: bytes, after: int = 0, limit: int = -1) -> list[tuple[int, bytes]]:
        """Items of a partition as (number, value), oldest first, behind the number `after`."""
        return self._db.execute(
            "select number, value from item where queue_id = ? and part = ? and number > ? order by number limit ?",
            (queue_id, part, after, limit),
        ).fetchall()

    def drop_items(self, queue_id: str, part: bytes | None = None, last: int | None = None) -> None:
        """Removes the items of a partition up to the number `last`, or all of it, or all of a queue."""
        self._db.execute(
            "delete from item where queue_id = ? and part = coalesce(?, part) and number <= coalesce(?, number)",
            (queue_id, part, last),
        )

    def n_items(self, queue_id: str, part: bytes | None = None) -> int:
        """How many items a partition has, or a whole queue."""
        row = self._db.execute(
            "select count(*) from item where queue_id = ? and part = coalesce(?, part)", (queue_id, part)
        ).fetchone()
        return int(row[0])

    def n_partitions(self, queue_id: str) -> int:
        """How many partitions of a queue have items."""
        row = self._db.execute("select count(distinct part) from item where queue_id = ?", (queue_id,)).fetchone()
        return int(row[0])

    def put_input(self, call_id: str, idx: int, data: bytes) -> None:
        """Keeps an input of a spawned call until its result."""
        self._db.execute("insert or replace into input values (?, ?, ?)", (call_id, idx, data))

    def inputs(self) -> list[tuple[str, int, bytes]]:
        """Inputs without a result as (call, index, data), call by call."""
        return self._db.execute("select call_id, idx, data from input order by call_id, idx").fetchall()

    def input(self, call_id: str, idx: int) -> bytes | None:
        """An input that is kept."""
        row = self._db.execute("select data from input where call_id = ? and idx = ?", (call_id, idx)).fetchone()
        return row[0] if row else None

    def drop_inputs(self, call_id: str) -> None:
        """Forgets the inputs of a call."""
        self._db.execute("delete from input where call_id = ?", (call_id,))

    def put_output(self, call_id: str, idx: int, data: bytes) -> None:
        """Keeps the result of one input of a spawned call, in the place of the input."""
        self._db.execute("begin")
        self._db.execute("insert or replace into output values (?, ?, ?, ?)", (call_id, idx, data, self._now()))
        self._db.execute("delete from input where call_id = ? and idx = ?", (call_id, idx))
        self._db.execute("commit")

    def drop_outputs(self, before: float) -> list[bytes]:
        """Forgets results that are older than a unix time; what they were."""
        rows = self._db.execute("select data from output where created_at < ?", (before,)).fetchall()
        self._db.execute("delete from output where created_at < ?", (before,))
        return [row[0] for row in rows]

    def outputs(self, call_id: str, first: int, last: int) -> list[bytes]:
        """The results of inputs `first` to `last`, both included, as far as they exist."""
        rows = self._db.execute(
            "select data from output where call_id = ? and idx between ? and ? order by idx", (call_id, first, last)
        )
        return [row[0] for row in rows]
