"""`python large_run.py N VERSION…`: runs of N splits over a sink in SQLite, one for each version of the handler.

Prints exit code, live records, peak memory in KiB and seconds of each.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import resource
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modalbatch.canonical import encode
from modalbatch.driver.run import Run
from modalbatch.driver.runs import Request
from modalbatch.errors import NotFoundError
from modalbatch.job import Handler, Job, Sink, Source
from modalbatch.names import part_name, receipt_name
from modalbatch.records import Counts, Part, Receipt, Split, Unit
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores import Entry

UNIT_BYTES = 8 << 20


class SqliteStore:
    """Objects in a database on disk. A part is its size only: nobody reads it here."""

    uri, has_conditional_create = "sqlite://sink/", True

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8000;")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS object (name TEXT PRIMARY KEY, data BLOB, bytes INTEGER) WITHOUT ROWID"
        )
        self._lock = threading.Lock()

    def _run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def list(self, prefix: str = "", *, descend: Any = None) -> Any:
        last = prefix
        while rows := self._run(
            "SELECT name, bytes FROM object WHERE name > ? AND name < ? ORDER BY name LIMIT 1000", last, prefix + "\x7f"
        ):
            for name, n_bytes in rows:
                yield Entry(name, n_bytes, 0.0, "", "")
            last = rows[-1][0]

    def stat(self, name: str) -> Entry | None:
        rows = self._run("SELECT bytes FROM object WHERE name = ?", name)
        return Entry(name, rows[0][0], 0.0, "", "") if rows else None

    def read(self, name: str) -> bytes:
        rows = self._run("SELECT data FROM object WHERE name = ?", name)
        if not rows:
            raise NotFoundError(name)
        return rows[0][0]

    def open(self, name: str, **options: Any) -> Any:
        return io.BytesIO(self.read(name))

    def create(self, name: str, data: bytes) -> bool:
        with self._lock:
            return (
                self._db.execute("INSERT OR IGNORE INTO object VALUES (?, ?, ?)", (name, data, len(data))).rowcount == 1
            )

    def add_part(self, name: str, n_bytes: int) -> None:
        self._run("INSERT INTO object VALUES (?, NULL, ?)", name, n_bytes)

    def replace(self, name: str, data: bytes) -> None:
        self._run("INSERT OR REPLACE INTO object VALUES (?, ?, ?)", name, data, len(data))

    def delete(self, names: Any) -> None:
        for name in names:
            self._run("DELETE FROM object WHERE name = ?", name)

    def sweep_unfinished(self, older_than_s: float, is_ours: Callable[[str], bool]) -> int:
        return 0

    def commit(self) -> None:
        pass

    refresh = probe = commit


class Inputs:
    def __init__(self, n_units: int) -> None:
        self.n_units = n_units

    def units(self) -> Any:
        for n in range(self.n_units):
            uri = f"s3://bucket/some/prefix/part-{n:07d}.jsonl"
            yield Unit(uri, f"{n:032x}", f"{n:032x}", 0, UNIT_BYTES, False)


def mapper(sink: ObjectSink, kill_at: int | None = None) -> Any:
    """Workers that have nothing to do; `kill_at`: after so many splits the process is no more."""
    n_splits = 0

    async def map_splits(feed: Any, **options: Any) -> Any:
        nonlocal n_splits
        async for text in feed:
            if n_splits == kill_at:
                os._exit(9)
            n_splits += 1
            split = Split.from_text(text)
            attempt = hashlib.md5(text.encode()).hexdigest()
            part = Part(part_name(split.id, attempt, ".jsonl"), 1000, "0" * 64, 10)
            receipt = Receipt(
                split=split.id,
                fingerprint=split.fingerprint,
                generation=split.generation,
                attempt=attempt,
                run_id=split.run_id,
                units=split.units,
                parts=(part,),
                counts=Counts(in_=10, out_of=10, out=10),
            )
            sink.store.add_part(part.name, part.bytes)
            sink.commit(receipt)
            name = receipt_name(split.id, split.fingerprint, split.generation)
            yield encode({"status": "done", "receipt": name, "split": split.id, "counts": {}, "seconds": 1.0})

    return map_splits


async def no_report(progress: Any) -> None:
    pass


def runs(folder: Path, n_units: int, versions: list[str], kill_at: int | None = None) -> Iterator[Any]:
    """The outcome of a run with each version of the handler, all over one sink that may be there already."""
    sink = ObjectSink(SqliteStore(folder / "sink.db"))
    for number, version in enumerate(versions):
        job = Job(
            name="large",
            handler=Handler(call="a:b", version=version),
            source=Source(uris=("s3://bucket/",)),
            sink=Sink(uri="/nowhere/"),
        )
        request = Request(run_id=f"run-{number}", containers=4)
        run = Run(job, request, mapper(sink, kill_at), no_report, sink=sink, source=Inputs(n_units))
        yield asyncio.run(run.conduct())


def main() -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in runs(Path(folder), int(sys.argv[1]), sys.argv[2:]):
            peak, ended = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            print(
                json.dumps([outcome["exit_code"], outcome["live"]["in"], peak, round(ended - started, 1)]), flush=True
            )
            started = ended


if __name__ == "__main__":
    main()
