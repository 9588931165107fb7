"""A split that is resumed after any death equals one that was never disturbed: records, dead letters, counts, hash."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modalbatch.job import Handler as HandlerSpec
from modalbatch.job import Job, Retries, Sink, Source
from modalbatch.records import Counts, Split
from modalbatch.runtime.callers import Callers
from modalbatch.runtime.handler import Handler
from modalbatch.runtime.progress import FLUSH, Checkpoint, Progress
from modalbatch.runtime.split_run import SplitRun, Task
from modalbatch.sources import open_source


class Death(BaseException):
    """The slot is gone: nothing of it runs any more."""


LINES = st.lists(
    st.sampled_from([b'{"n": 1}\n', b'{"n": 2, "fail": true}\n', b'{"n": 3, "none": true}\n', b'{"n": 4, "many": 3}\n',
                     b"\n", b"nonsense\n", b"[1]\r\n", b'{"n": 5, "n": 6}\n', b'{"n": "%s"}\n' % (b"x" * 300)]),
    min_size=1,
    max_size=24,
)  # fmt: skip


class Slot:
    """The code of one slot over the lines of one file, without its process."""

    def __init__(self, folder: Path, lines: list[bytes], compression: str, fields: dict[str, Any]) -> None:
        self.folder = folder
        (folder / "x.jsonl").write_bytes(b"".join(lines))
        self.deaths: list[int] = []
        self.flushes: set[int] = set()
        self.n_calls = 0
        self.progress = Progress()
        module = types.ModuleType("resume_handler")
        module.work = self._batch if "batch_size" in fields else self._one
        sys.modules["resume_handler"] = module
        self.job = Job(
            name="resume",
            handler=HandlerSpec(call="resume_handler:work", **fields),
            source=Source(uris=("x.jsonl",), max_record_bytes=100),
            sink=Sink(uri="out/", compression=compression),
            retries=Retries(max_retries=0),
        )
        roots = {"": f"{folder}/"}
        units = tuple(open_source(self.job, roots).units())
        self.split = Split(units=units, generation=1, fingerprint="f", run_id="r", roots=roots)

    def _batch(self, records: list[dict[str, Any]]) -> list[Any]:
        return [self._result(record) for record in records]

    def _one(self, record: dict[str, Any]) -> Any:
        result = self._result(record)
        if isinstance(result, Exception):
            raise result
        return result

    def _result(self, record: dict[str, Any]) -> Any:
        self.n_calls += 1
        if self.n_calls in self.flushes:
            self.progress.words[FLUSH] = 1
        if self.deaths and self.n_calls == self.deaths[0]:
            self.deaths.pop(0)
            raise Death
        if record.get("fail"):
            return ValueError("no")
        if record.get("none"):
            return None
        return [{"n": record["n"], "i": i} for i in range(record["many"])] if "many" in record else record

    def attempt(self, resume: Checkpoint) -> dict[str, Any]:
        self.progress.reset(resume)
        task = Task(self.split, self.folder / "part", self.folder / "dead", resume, [], {})
        handler = Handler(self.job)
        with Callers(self.job.handler.concurrency, handler.is_async) as callers:
            return SplitRun(self.job, handler, callers, self.progress, task).run()

    def to_the_end(self) -> dict[str, Any]:
        resume = Checkpoint()
        while True:
            self.n_calls = 0
            try:
                return self.attempt(resume)
            except Death:
                resume = self.progress.load()
                # What was written after the checkpoint is still in the files, torn.
                for name in ("part", "dead"):
                    if (self.folder / name).exists():
                        with (self.folder / name).open("ab") as file:
                            file.write(b"torn")


def outcome(slot: Slot, compression: str) -> Any:
    answer = slot.to_the_end()
    contents = []
    for name in ("part", "dead"):
        n_bytes, sha256 = answer[name][:2]
        path = slot.folder / name
        data = path.read_bytes() if n_bytes else b""
        assert (len(data), hashlib.sha256(data).hexdigest()) == (n_bytes, sha256)
        contents.append(gzip.decompress(data) if name == "part" and compression == "gz" and data else data)
    letters = [json.loads(line) for line in contents[1].splitlines()]
    for letter in letters:
        letter["error"]["traceback"] = ""
    assert Counts(**answer["counts"]).balances()
    return answer["counts"], contents[0], letters


@pytest.mark.parametrize("compression", ["none", "gz"])
@pytest.mark.parametrize("fields", [{}, {"batch_size": 3}], ids=["records", "batches"])
@given(lines=LINES, deaths=st.lists(st.integers(1, 24), max_size=4), flushes=st.sets(st.integers(1, 24), max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_resumed_split_equals_an_undisturbed_one(compression, fields, lines, deaths, flushes) -> None:
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as cut:
        expected = outcome(Slot(Path(whole), lines, compression, fields), compression)
        slot = Slot(Path(cut), lines, compression, fields)
        slot.deaths, slot.flushes = list(deaths), flushes
        assert outcome(slot, compression) == expected
