"""The commit of one attempt: parts, then the receipt. Runs on: container.

Owns the worker's half of `guarantees.md` section 3. The worker and the schedules of the fault tests go through it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modalbatch.formats import compression
from modalbatch.job import Job
from modalbatch.names import dead_name, part_name
from modalbatch.records import Counts, Part, Receipt, Split, total
from modalbatch.sinks.objects import ObjectSink

Json = dict[str, Any]


def find_committed(sink: ObjectSink, split: Split) -> Json | None:
    """The answer for a split that has its receipt already; None: somebody must do it."""
    found = sink.find(split.id, split.fingerprint, split.generation)
    return _committed(sink, found) if found else None


def commit_attempt(
    job: Job,
    sink: ObjectSink,
    split: Split,
    attempt: str,
    *,
    answer: Mapping[str, Any],
    paths: tuple[Path, Path],
    elapsed_s: Callable[[], float],
) -> Json:
    """Publish what a slot wrote to `paths` (results, dead letters) and make it count; the answer for the driver.

    `answer` is the slot's: `counts`, those of each of the `units`, and bytes and sha256 of `part` and `dead`; with
    `replaces`, the name of a receipt, its `parts` go before `part`. `elapsed_s`: since the attempt's entry.
    """
    counts, unit_counts = Counts(**answer["counts"]), tuple(Counts(**item) for item in answer["units"])
    is_whole = len(unit_counts) == len(split.units) and total(unit_counts) == counts
    if not is_whole or not all(item.balances() for item in unit_counts):
        return _failed("InternalError", f"counts do not add up: {counts}")
    suffix = ".jsonl" + compression.SUFFIXES[job.sink.compression]
    earlier: tuple[Part, ...] = answer.get("parts", ())
    n_earlier = sum(item.records for item in earlier)
    part = _part(part_name(split.id, attempt, suffix), answer["part"], counts.out - n_earlier)
    dead = _part(dead_name(split.id, attempt), answer["dead"], counts.dead)
    for path, objects in ((paths[0], part), (paths[1], dead)):
        for item in objects:
            sink.put(path, item)
    elapsed = elapsed_s()
    if elapsed > job.compute.timeout_s:
        # The sweep may take parts of attempts that are twice as old as this: never commit so late.
        sink.delete(item.name for item in part + dead)
        return _failed("Timeout", "the attempt was over before its receipt")
    receipt = Receipt(
        split=split.id,
        fingerprint=split.fingerprint,
        generation=split.generation,
        attempt=attempt,
        run_id=split.run_id,
        units=split.units,
        unit_counts=unit_counts,
        parts=earlier + part,
        spread=_spread(answer.get("spread", ())),
        replaces=answer.get("replaces", ""),
        dead=dead,
        counts=counts,
        seconds=elapsed,
        container=os.environ.get("MODAL_TASK_ID", ""),
        gpu=job.compute.gpu[0] if job.compute.gpu else None,
    )
    # Receipt last: a crash before this line re-runs the split, after it never does.
    stands = sink.commit(receipt)
    if stands.attempt != attempt:
        named = {item.name for item in stands.parts + stands.dead}
        sink.delete(item.name for item in part + dead if item.name not in named)
    return _committed(sink, stands)


def _spread(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Rows that say more than the counts of the units do."""
    filled = tuple(tuple(row) for row in rows if any(row))
    return filled if len(filled) > 1 and len(filled[0]) > 1 else ()


def _part(name: str, size_and_sha: list[Any], records: int) -> tuple[Part, ...]:
    n_bytes, sha256 = size_and_sha
    return (Part(name, n_bytes, sha256, records),) if n_bytes else ()


def _committed(sink: ObjectSink, receipt: Receipt) -> Json:
    name = sink.receipt_name(receipt.split, receipt.fingerprint, receipt.generation, receipt.attempt)
    return {"status": "done", "receipt": name, "counts": receipt.counts.to_json(), "seconds": receipt.seconds}


def _failed(error: str, message: str) -> Json:
    return {"status": "failed", "error": error, "message": message, "hint": None}
