"""Small jobs that were really run, for everything that reads sinks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from harness import run_job
from modalbatch.job import Compute, Handler, Job, OnError, Retries, Sink, Source, Split
from modalbatch.records import Manifest
from modalbatch.sinks import open_sink
from modalbatch.sinks.objects import ObjectSink

HANDLER = """
import time
from modalbatch import Reject

def work(record):
    time.sleep(SECONDS)
    if record.get("bad"):
        raise Reject("not one of ours")
    if record.get("skip"):
        return None
    return {"id": record["id"], "double": record["n"] * 2}
"""
SPEC = """
version: 1
name: sample
handler: sample_handlers:work
source: {uri: data/*.jsonl, split: 1KiB}
sink: {uri: out/, compression: COMPRESSION}
retries: {max_retries: 0}
"""


class Sample:
    """A folder with spec, handler, data, and the sink of runs under `tests/harness.py`."""

    def __init__(self, folder: Path, *, compression: str = "none", seconds: float = 0) -> None:
        self.folder, self.n_runs = folder, 0
        (folder / "data").mkdir(parents=True)
        (folder / "sample_handlers.py").write_text(HANDLER.replace("SECONDS", f"{seconds}"))
        self.spec = folder / "sample.yaml"
        self.spec.write_text(SPEC.replace("COMPRESSION", compression).lstrip())
        self.job = Job(
            name="sample",
            handler=Handler(call="sample_handlers:work"),
            source=Source(uris=("data/*.jsonl",), split=Split(bytes=1024)),
            sink=Sink(uri="out/", compression=compression),
            retries=Retries(max_retries=0),
            on_error=OnError(),
        )

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def roots(self) -> dict[str, str]:
        return {"": f"{self.folder}/"}

    def write(self, name: str, n_records: int, *, bad: int = 0, start: int = 0) -> Sample:
        """One input file, its last `bad` records dead letters to be, the one before them filtered."""
        records = [{"id": start + i, "n": i} for i in range(n_records)]
        if bad:
            records[-bad - 1]["skip"] = True
            for record in records[-bad:]:
                record["bad"] = True
        text = "".join(json.dumps(record) + "\n" for record in records)
        (self.folder / "data" / name).write_text(text)
        return self

    def run(self, run_id: str = "", **request) -> dict:
        """One run; its outcome."""
        self.n_runs += 1
        return run_job(self.job, self.folder, run_id=run_id or f"run-{self.n_runs}", **request)

    def change_handler(self) -> None:
        with (self.folder / "sample_handlers.py").open("a") as file:
            file.write("# another line\n")

    def allow(self, max_failed: int) -> None:
        self.job = replace(self.job, on_error=OnError(max_failed=max_failed))

    def sink(self) -> ObjectSink:
        return open_sink(self.job, self.roots)

    def manifest(self) -> Manifest:
        found = self.sink().newest()
        assert found is not None
        return found


def divided(folder: Path) -> Sample:
    """A sample that was run once, and whose only range was longer than its time allowed: its pieces are live."""
    made = Sample(folder, seconds=0.05)
    made.job = replace(made.job, source=replace(made.job.source, split=Split(files=10)), compute=Compute(timeout_s=2))
    made.write("a.jsonl", 90, bad=4).write("b.jsonl", 5)
    made.run()
    assert any(unit.is_piece for _, receipt in made.sink().live(made.manifest()) for unit in receipt.units)
    return made


def filled(folder: Path, *, compression: str = "none", bad: int = 0, delivery: str = "exactly_once") -> Sample:
    """A sample that was run once: four inputs, two of them in several ranges."""
    made = Sample(folder, compression=compression)
    made.job = replace(made.job, delivery=delivery)
    made.write("a.jsonl", 150).write("b.jsonl", 100, bad=bad, start=1000).write("c.jsonl", 5).write("d.jsonl", 0)
    made.run()
    return made
