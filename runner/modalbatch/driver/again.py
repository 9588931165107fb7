"""A retry, planned: whose dead letters are processed again. Runs on: both.

Owns the plan of a run that lists no source: the live receipts stay, and those with letters that are meant are to be
replaced. It leaves alone what is neither live nor written to replace what is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple

from modalbatch.canonical import Json
from modalbatch.driver.index import OPEN_RETRIES, Index, receipt_of
from modalbatch.driver.plan import READERS, Sight, SplitMaker, check_owner, read_sink
from modalbatch.driver.runs import Request
from modalbatch.errors import StateError
from modalbatch.job import Job
from modalbatch.records import Counts, Receipt, Split
from modalbatch.sinks.content import read_lines
from modalbatch.sinks.letter import is_meant
from modalbatch.sinks.objects import ObjectSink

_HINT = "`modalbatch verify` names all that is wrong, `modalbatch apply` makes it again"


class Retry(NamedTuple):
    """What `plan_retry` found."""

    sight: Sight
    #: Letters to be processed again, and the receipts that have them.
    n_letters: int
    n_receipts: int
    #: Whether a retry that did not end has left something to publish.
    is_continued: bool


def plan_retry(sink: ObjectSink, index: Index, fingerprint: str, error: str | None) -> Retry:
    """Fill the index with what is live, and want the letters of this signature (None: all) to be processed again.

    Raises:
        StateError: nothing is live, or something of it is gone or altered.
    """
    index.spares_others = True
    sight = read_sink(sink, index, fingerprint, keep=True)
    if sight.manifest is None:
        raise StateError("nothing is published yet", hint="`modalbatch apply` publishes")
    index.query(
        "UPDATE receipt SET void = 1 WHERE name IN (SELECT value FROM json_each(?))", json.dumps(sight.manifest.retired)
    )
    gone = index.query("SELECT name FROM receipt WHERE live AND NOT chosen AND NOT void LIMIT 1").fetchone()
    if gone:
        raise StateError(f"something that `{gone[0]}` of the sink names is gone", hint=_HINT)
    for name, n_letters in _meant(sink, index, {"error": error, "before": sight.generation}):
        index.query("INSERT INTO again VALUES (?, ?)", name, n_letters)
    n_receipts, n_letters = index.query("SELECT count(*), coalesce(sum(n), 0) FROM again").fetchone()
    is_continued = bool(index.query("SELECT EXISTS (SELECT 1 FROM receipt WHERE chosen AND NOT live)").fetchone()[0])
    if not n_letters and not is_continued:
        sight.accepted = sight.manifest.accepted
    return Retry(sight, n_letters, n_receipts, is_continued)


def retry_facts(job: Job, sink: ObjectSink, fingerprint: str, error: str | None, *, request: Request) -> Json:
    """What a retry would do, as plain data; writes nothing.

    Raises:
        StateError: the sink is not this job's, nothing is live, or something of it is gone or altered.
    """
    check_owner(job, sink, into_existing=True, adopt=request.adopt)
    index = Index()
    try:
        found = plan_retry(sink, index, fingerprint, error)
    finally:
        index.close()
    return {
        "name": job.name,
        "fingerprint": fingerprint,
        "error": error,
        "manifest": found.sight.generation - 1,
        "letters": found.n_letters,
        "todo": {"splits": found.n_receipts},
        "is_done": not found.n_letters and not found.is_continued,
    }


def _meant(sink: ObjectSink, index: Index, retry: Json) -> Iterator[tuple[str, int]]:
    """Receipts with letters that are meant, and how many; several are read at the same time."""
    sql = "SELECT name FROM receipt WHERE chosen AND json_array_length(json, '$.dead') ORDER BY name"
    names = (name for (name,) in index.query(sql))
    with ThreadPoolExecutor(READERS, "modalbatch-letters") as threads:
        while some := list(islice(names, READERS * 4)):
            counted = threads.map(partial(_count, sink, retry), map(index.receipt, some))
            yield from ((name, n) for name, n in zip(some, counted, strict=True) if n)


def _count(sink: ObjectSink, retry: Json, receipt: Receipt) -> int:
    lines = read_lines(sink.store, receipt.dead, hint=_HINT)
    return sum(is_meant(json.loads(line), retry) for line in lines)


def retry_splits(maker: SplitMaker, error: str | None) -> Iterator[Split]:
    """One split for each receipt whose place no other one has taken yet; lazy, while receipts are accepted."""
    name, sql = "", f"SELECT name, json {OPEN_RETRIES} AND name > ? ORDER BY name LIMIT 1"
    while row := maker.index.query(sql, name).fetchone():
        name = row[0]
        retry = {"receipt": name, "error": error, "before": maker.generation}
        yield maker.split(list(receipt_of(row[1]).units), retry=retry)


def gain(index: Index, receipt: Receipt) -> Counts:
    """What an accepted receipt adds to a run's numbers: of a retry only what became of the letters."""
    row = index.query("SELECT n FROM again WHERE receipt = ?", receipt.replaces).fetchone()
    if row is None:
        return receipt.counts
    now, was = receipt.counts, index.receipt(receipt.replaces).counts
    out_of, filtered, dropped = now.out_of - was.out_of, now.filtered - was.filtered, now.dropped - was.dropped
    dead = row[0] - out_of - filtered - dropped
    return Counts(in_=row[0], out_of=out_of, dead=dead, filtered=filtered, dropped=dropped, out=now.out - was.out)
