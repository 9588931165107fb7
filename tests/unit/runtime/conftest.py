"""A job over given lines, run by the real driver, worker and slot."""

from __future__ import annotations

import gzip
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import run_job
from modalbatch.job import Compute, Handler, Job, OnError, Retries, Sink, Source, Split
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores.local import LocalStore

_N_MODULES = [0]


class Ran(NamedTuple):
    """What a run left behind."""

    outcome: dict[str, Any]
    records: list[dict[str, Any]]
    letters: list[dict[str, Any]]

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """in, out, dead, filtered, dropped."""
        counts = self.outcome["counts"]
        return tuple(counts[name] for name in ("in", "out", "dead", "filtered", "dropped"))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ran]:
    """`run(code, records or bytes, handler fields…)`: the handler is `work` or `Work` of the code."""

    def run_code(code: str, data: Any, *, call: str = "work", **fields: Any) -> Ran:
        _N_MODULES[0] += 1
        module = f"unit_handler_{_N_MODULES[0]}"
        text = f"import os\nfolder = {str(tmp_path)!r}\n" + textwrap.dedent(code)
        (tmp_path / f"{module}.py").write_text(text)
        (tmp_path / "data").mkdir(exist_ok=True)
        if not isinstance(data, bytes):
            data = "".join(json.dumps(record) + "\n" for record in data).encode()
        for old in (tmp_path / "data").iterdir():
            old.unlink()
        (tmp_path / f"data/x.jsonl{fields.pop('suffix', '')}").write_bytes(data)
        parts = {name: fields.pop(name) for name in ("retries", "on_error", "compute", "retry_on") if name in fields}
        compression = fields.pop("compression", "none")
        split = Split(bytes=fields.pop("split", None))
        reading = {name: fields.pop(name) for name in ("max_record_bytes",) if name in fields}
        job = Job(
            name="unit",
            handler=Handler(call=f"{module}:{call}", **fields),
            source=Source(uris=("data/",), split=split, on_removed="drop", **reading),
            sink=Sink(uri="out/", compression=compression),
            **{
                "retries": Retries(initial_delay_s=0.0),
                "on_error": OnError(max_failed=10**6),
                "compute": Compute(timeout_s=120),
            }
            | parts,
        )
        outcome = run_job(job, tmp_path, run_id=f"run-{_N_MODULES[0]}")
        return Ran(outcome, *read(tmp_path / "out"))

    return run_code


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Live records and dead letters of a sink."""
    sink = ObjectSink(LocalStore(str(path)))
    records, letters = [], []
    for _, receipt in sink.live(sink.newest()):
        for part in receipt.parts:
            data = sink.store.read(part.name)
            data = gzip.decompress(data) if part.name.endswith(".gz") else data
            records += [json.loads(line) for line in data.splitlines()]
        for part in receipt.dead:
            letters += [json.loads(line) for line in sink.store.read(part.name).splitlines()]
    return records, letters
