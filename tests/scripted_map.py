"""The real driver against a scripted map: a test says what each split comes back with."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from typing import Any

from modalbatch.canonical import encode
from modalbatch.driver.run import Run
from modalbatch.driver.runs import Request
from modalbatch.job import Handler, Job, Retries, Sink, Source
from modalbatch.records import Counts, Receipt, Split, Unit
from modalbatch.sinks.objects import ObjectSink

BIG = 8 << 20


class Inputs:
    """So many units; one split each."""

    def __init__(self, n_units: int, n_bytes: int = BIG) -> None:
        self.n_units, self.n_bytes = n_units, n_bytes

    def units(self):
        for n in range(self.n_units):
            yield Unit(f"u{n:04d}", "1", "", 0, self.n_bytes, False)


def commit(sink: ObjectSink, text: str) -> str:
    """What a worker answers when all is well."""
    split = Split.from_text(text)
    receipt = Receipt(
        split=split.id,
        fingerprint=split.fingerprint,
        generation=split.generation,
        attempt="a" * 32,
        run_id=split.run_id,
        units=split.units,
        counts=Counts(in_=1, filtered=1),
    )
    sink.commit(receipt)
    name = sink.receipt_name(split.id, split.fingerprint, split.generation, receipt.attempt)
    return encode({"status": "done", "receipt": name, "split": split.id, "counts": {}, "seconds": 0.1})


def _of_nobody(text: str) -> str:
    """The split, whatever is suspected of it."""
    return replace(Split.from_text(text), suspects={}).to_text()


def failed(text: str, **fields: Any) -> str:
    data = {"status": "failed", "error": "X", "message": "no luck", "hint": None, "task": text, "split": "s"}
    return encode(data | fields)


def drive(sink: ObjectSink, inputs: Any, answer: Any, *, run_id: str = "run", containers: int = 2, **job) -> Any:
    """`answer(text, nth time)` gives what the map yields, or raises what breaks it."""
    seen: Counter[str] = Counter()
    most_out = 0

    async def map_splits(feed: Any, **options: Any) -> Any:
        nonlocal most_out
        waiting: list[str] = []
        more = asyncio.Event()
        is_fed = False

        async def pump() -> None:
            nonlocal is_fed
            async for text in feed:
                waiting.append(text)
                more.set()
            is_fed = True
            more.set()

        pumping = asyncio.create_task(pump())
        while not (is_fed and not waiting):
            await more.wait()
            for _ in range(20):
                await asyncio.sleep(0)  # the feed gives all that its window allows
            most_out = max(most_out, len(waiting))
            if waiting:
                text = waiting.pop(0)
                key = _of_nobody(text)
                seen[key] += 1
                yield answer(text, seen[key])
            if not waiting and not is_fed:
                more.clear()
        await pumping

    async def no_report(progress: Any) -> None:
        json.dumps(progress)

    job_ = Job(
        name="run",
        handler=Handler(call="a:b", version="1"),
        sink=Sink(uri="/nowhere/"),
        **{"source": Source(uris=("x",)), "retries": Retries(max_retries=2, initial_delay_s=0.0)} | job,
    )
    run = Run(job_, Request(run_id=run_id, containers=containers), map_splits, no_report, sink=sink, source=inputs)
    outcome = asyncio.run(run.conduct())
    return outcome, seen, most_out
