"""The tables of the driver's index, in a database that is thrown away. Runs on: both."""

from __future__ import annotations

import sqlite3

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
CREATE INDEX receipt_broken ON receipt (fp8, generation) WHERE broken;
CREATE INDEX receipt_heir ON receipt (generation, name) WHERE replaces != '';
CREATE TABLE cover (unit TEXT PRIMARY KEY, uri TEXT, receipt TEXT, seen INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE INDEX cover_receipt ON cover (receipt);
CREATE TABLE piece (  -- of a divided unit, the stem; those of chosen receipts
  stem TEXT, low INTEGER, high INTEGER, unit TEXT, receipt TEXT, PRIMARY KEY (stem, low)
) WITHOUT ROWID;
CREATE INDEX piece_receipt ON piece (receipt);
CREATE TABLE loose (stem TEXT, low INTEGER, high INTEGER, receipt TEXT);  -- of usable receipts, not chosen yet
CREATE INDEX loose_stem ON loose (stem);
CREATE TABLE rival (unit TEXT PRIMARY KEY) WITHOUT ROWID;  -- in a usable receipt whose place a chosen one has
CREATE TABLE lived (stem TEXT, lines INTEGER, receipt TEXT);  -- pieces that the newest manifest lists
CREATE TABLE want (unit TEXT PRIMARY KEY, seq INTEGER, json TEXT) WITHOUT ROWID;
CREATE TABLE carry (unit TEXT PRIMARY KEY, receipt TEXT) WITHOUT ROWID;  -- gone, and its receipt is given up
CREATE INDEX carry_receipt ON carry (receipt);
CREATE TABLE listed (uri TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE was (uri TEXT, accepted INTEGER, PRIMARY KEY (uri, accepted)) WITHOUT ROWID;
CREATE TABLE lost (unit TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE same (unit TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE again (receipt TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID;  -- so many of its dead letters are retried
"""


def open_database(factory: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    """An empty one, without a name: SQLite spills it into a file when the cache is full, and removes that by itself."""
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False, factory=factory)
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA cache_size = -16000")
    database.executescript("BEGIN;" + _SCHEMA)
    return database
