"""A split that is left before its end: what is done is committed, the rest goes on, and no line is lost or doubled."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections import Counter
from pathlib import Path

import pytest

from harness import Pool, module_path, run_job
from modalbatch.driver.verify import verify
from modalbatch.job import Compute, Handler, Job, OnError, Retries, Sink, Source
from modalbatch.job import Split as Rule
from modalbatch.records import ALL_LINES, Split
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import open_source
from modalbatch.stores.local import LocalStore

N = 60
#: Each record takes a while, every seventh fails, every fifth is filtered.
CODE = """
import os, time

def note(n):
    fd = os.open({calls!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{{n}}\\n".encode())
    os.close(fd)

def one(r):
    note(r["n"])
    time.sleep({seconds})
    if r["n"] % 7 == 0: raise ValueError("seven")
    return None if r["n"] % 5 == 0 else {{"n": r["n"]}}

def many(rs):
    out = []
    for r in rs:
        try: out.append(one(r))
        except ValueError as error: out.append(error)
    return out
"""
DEAD = [n for n in range(N) if n % 7 == 0]
GOOD = [n for n in range(N) if n % 7 and n % 5]


def make(folder: Path, files: dict[str, bytes], *, seconds: float = 0.08, call: str = "one", **fields) -> Job:
    (folder / "data").mkdir()
    for name, data in files.items():
        (folder / "data" / name).write_bytes(data)
    module = f"divided_{folder.name}".replace("-", "_")
    (folder / f"{module}.py").write_text(CODE.format(calls=str(folder / "calls"), seconds=seconds))
    timeout_s = fields.pop("timeout_s", 3)
    sink = Sink(uri="out/", compression=fields.pop("compression", "none"))
    return Job(
        name="divided",
        handler=Handler(call=f"{module}:{call}", **fields),
        source=Source(uris=("data/",), split=Rule(files=100)),
        sink=sink,
        compute=Compute(timeout_s=timeout_s),
        retries=Retries(max_retries=0),
        on_error=OnError(max_failed=10**6),
    )


def lines(ns) -> bytes:
    return b"".join(json.dumps({"n": n}).encode() + b"\n" + b"\n" * (n % 3 == 0) for n in ns)


def content(folder: Path) -> tuple[list[int], list[dict]]:
    """Live records and dead letters, of a sink that proves itself."""
    sink = ObjectSink(LocalStore(str(folder / "out")))
    proof = verify(sink)
    assert proof.is_whole, proof.problems
    records, letters = [], []
    for _, receipt in sink.live(sink.newest()):
        for part in receipt.parts:
            data = sink.store.read(part.name)
            data = gzip.decompress(data) if part.name.endswith(".gz") else data
            records += [json.loads(line)["n"] for line in data.splitlines()]
        for part in receipt.dead:
            letters += [json.loads(line) for line in sink.store.read(part.name).splitlines()]
    return records, letters


def calls(folder: Path) -> Counter:
    return Counter(map(int, (folder / "calls").read_text().split()))


def n_pieces(folder: Path) -> int:
    sink = ObjectSink(LocalStore(str(folder / "out")))
    return sum(unit.is_piece for _, receipt in sink.live(sink.newest()) for unit in receipt.units)


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ({"a.jsonl": lines(range(N))}, {}),
        ({"a.jsonl.gz": gzip.compress(lines(range(N)))}, {"compression": "gz"}),
        ({"a.jsonl": lines(range(20)), "b.jsonl": b"", "c.jsonl.gz": gzip.compress(lines(range(20, N)))}, {}),
        ({"a.jsonl": lines(range(N))}, {"concurrency": 2, "seconds": 0.15, "timeout_s": 4}),
        ({"a.jsonl": lines(range(N))}, {"call": "many", "batch_size": 7}),
    ],
    ids=["plain", "compressed", "pack", "concurrent", "batches"],
)
def test_a_split_that_outgrows_its_time_goes_on_where_it_was(tmp_path, files, fields) -> None:
    job = make(tmp_path, files, **fields)
    outcome = run_job(job, tmp_path, run_id="r")
    assert outcome["exit_code"] == 0, outcome
    records, letters = content(tmp_path)
    assert sorted(records) == GOOD
    assert sorted(letter["record"]["n"] for letter in letters) == DEAD
    assert len({letter["id"] for letter in letters}) == len(DEAD)
    assert n_pieces(tmp_path) >= 2
    # A slot is asked to stop between two records: none is called again because of it.
    assert {n: n_calls for n, n_calls in calls(tmp_path).items() if n_calls > 1} == {}
    assert outcome["counts"]["blank"] == N // 3
    before = calls(tmp_path)
    assert run_job(job, tmp_path, run_id="again")["counts"]["in"] == 0
    assert calls(tmp_path) == before


def test_positions_of_dead_letters_are_those_in_the_input(tmp_path) -> None:
    data = lines(range(N))
    job = make(tmp_path, {"a.jsonl": data})
    run_job(job, tmp_path, run_id="r")
    assert n_pieces(tmp_path) >= 2
    _, letters = content(tmp_path)
    for letter in letters:
        position = letter["position"]
        assert json.loads(data[position["offset"] :].partition(b"\n")[0]) == letter["record"]
        assert json.loads(data.split(b"\n")[position["ordinal"]]) == letter["record"]


def test_a_hang_in_the_middle_costs_no_record_before_it(tmp_path) -> None:
    job = make(tmp_path, {"a.jsonl": lines(range(30))}, seconds="3600 if r['n'] == 11 else 0.1", timeout_s=2)
    job = Job.from_json({**job.to_json(), "retries": {"max_retries": 2, "initial_delay_s": 0.0}})
    outcome = run_job(job, tmp_path, run_id="r")
    assert outcome["exit_code"] == 0, outcome
    records, letters = content(tmp_path)
    assert sorted(records) == [n for n in GOOD if n < 30 and n != 11]
    assert {(letter["record"]["n"], letter["cause"]) for letter in letters} == {
        (11, "timeout"), *((n, "raised") for n in DEAD if n < 30)
    }  # fmt: skip
    found = calls(tmp_path)
    # What was written at the first checkpoint, a fifth of a second after the beginning, is not done again.
    assert found[1] == 1, found


def test_an_idle_worker_takes_half_of_the_slowest_split(tmp_path) -> None:
    job = make(tmp_path, {"a.jsonl": lines(range(N))}, seconds=0.25, timeout_s=600)
    outcome = run_job(job, tmp_path, run_id="r", n_workers=2)
    assert outcome["exit_code"] == 0, outcome
    records, letters = content(tmp_path)
    assert sorted(records) == GOOD
    assert sorted(letter["record"]["n"] for letter in letters) == DEAD
    assert n_pieces(tmp_path) >= 3
    assert set(calls(tmp_path).values()) == {1}
    control = [path.name for path in (tmp_path / "out/_modalbatch/runs/r").iterdir()]
    assert any(name.startswith("divide-") for name in control)
    assert list((tmp_path / "out/_modalbatch/runs/r").glob("entries/*")) == []


def test_the_pieces_of_a_broken_archive_lose_what_is_broken_once(tmp_path) -> None:
    pad = random.Random(1)
    data = b"".join(json.dumps({"n": n, "pad": f"{pad.getrandbits(80_000):x}"}).encode() + b"\n" for n in range(N))
    broken = gzip.compress(data)
    broken = broken[: len(broken) * 2 // 3]
    n_whole = zlib.decompressobj(31).decompress(broken).count(b"\n")
    job = make(tmp_path, {"a.jsonl.gz": broken})
    outcome = run_job(job, tmp_path, run_id="r")
    assert outcome["exit_code"] == 0, outcome
    records, letters = content(tmp_path)
    assert n_pieces(tmp_path) >= 2
    assert 30 < n_whole < 50
    assert sorted(records) == [n for n in GOOD if n < n_whole]
    assert [letter.get("records") for letter in letters if letter["cause"] == "undecodable"] == ["unknown"]


def split_of(job: Job, folder: Path) -> Split:
    source = open_source(job, {"": f"{folder}/"})
    units = tuple(source.units())
    return Split(units=units, generation=1, fingerprint="f" * 64, run_id="r", roots={"": f"{folder}/"})


def test_a_split_that_was_lost_before_is_divided_at_once_and_a_single_line_condemned(tmp_path) -> None:
    """The attempts that never ended are their notes in the sink: what a container that is gone leaves behind."""
    job = make(tmp_path, {"a.jsonl": lines([1, 2])})
    split = split_of(job, tmp_path).suspected()
    sink = ObjectSink(LocalStore(str(tmp_path / "out")))
    with module_path(tmp_path):
        pool = Pool(job)
        try:
            worker = pool.workers[0]
            lost = f"_modalbatch/runs/r/entries/{split.id}.g1."
            sink.store.create(f"{lost}00000000", b"x")
            split = Split.from_text(json.dumps(json.loads(split.to_text()) | {"fingerprint": worker.fingerprint}))
            answer = json.loads(worker.process(split.to_text()))
            assert answer["status"] == "divided"
            first, second = map(Split.from_text, answer["rest"])
            assert [(unit.low, unit.high) for unit in first.units + second.units] == [(0, 1), (1, ALL_LINES)]
            for n in range(3):
                sink.store.create(f"_modalbatch/runs/r/entries/{second.id}.g1.0000000{n}", b"x")
            assert json.loads(worker.process(first.to_text()))["status"] == "done"
            assert json.loads(worker.process(second.to_text()))["status"] == "done"
        finally:
            pool.close()
    assert calls(tmp_path) == {1: 1}
    receipt = sink.find(second.id, worker.fingerprint, 1)
    assert receipt.counts.dead == 1
    [letter] = [json.loads(line) for line in sink.store.read(receipt.dead[0].name).splitlines()]
    assert (letter["cause"], letter["record"], letter["attempts"]) == ("crash", {"n": 2}, 3)
    assert letter["error"]["message"] == "its container ended each of the 3 times that it was processed"
