"""A retry processes the dead letters and nothing else, and the sink stays one whole: driver, worker and slots."""

from __future__ import annotations

import base64
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import Pool, module_path, run_job
from modalbatch.driver.verify import verify
from modalbatch.job import Handler, Job, OnError, Retries, Sink, Source, Split
from modalbatch.records import Receipt
from modalbatch.sinks import open_existing
from modalbatch.sinks.letter import failing
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores.local import LocalStore

CODE = """
import os, pathlib

def work(record, mends=()):
    folder = pathlib.Path(__file__).parent
    calls = os.open(folder / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(calls, f"{record['key']}{record['n']}\\n".encode())
    os.close(calls)
    bad = record.get("bad")
    if bad in ("crash", "once") and bad not in mends and (bad == "crash" or not (folder / "once").exists()):
        (folder / "once").touch()
        os._exit(3)
    if bad and bad not in mends:
        raise ValueError(f"{bad}")
    if record.get("none"):
        return None
    result = {"key": record["key"], "n": record["n"], "mended": bool(bad)}
    return [result, result] if record.get("twice") else result
"""
KEYS = "abcd"
RECORDS: list[dict[str, Any]] = [
    {"n": 0},
    {"n": 1, "bad": "left"},
    {"n": 2, "none": True},
    {"n": 3, "bad": "right", "twice": True},
    {"n": 4, "bad": "left", "none": True},
    {"n": 5, "twice": True},
]
GIVEN = [0, 5, 5]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "again_handler.py").write_text(CODE)
    for key in KEYS:
        write(tmp_path, key)
    return tmp_path


def write(folder: Path, key: str, records: list[dict[str, Any]] = RECORDS) -> None:
    lines = (json.dumps({"key": key, **record}) + "\n" for record in records)
    (folder / f"data/{key}.jsonl").write_text("".join(lines))


def job_of(*mends: str, compression: str = "none", files: int = 4, delivery: str = "exactly_once", **handler) -> Job:
    return Job(
        name="again",
        handler=Handler(call="again_handler:work", args={"mends": list(mends)}, **handler),
        source=Source(uris=("data/*.jsonl",), split=Split(files=files)),
        sink=Sink(uri="out/", compression=compression),
        retries=Retries(max_retries=1, initial_delay_s=0.0),
        on_error=OnError(max_failed=100),
        delivery=delivery,
    )


def run(folder: Path, job: Job, run_id: str, exit_code: int = 0, **request: Any) -> dict[str, Any]:
    engine = {"kind": "local", "home": "here", "id": run_id}
    outcome = run_job(job, folder, run_id=run_id, engine=engine, **request)
    assert outcome["exit_code"] == exit_code, outcome
    proof = verify(sink_of(folder))
    assert (proof.problems, proof.extras) == ((), ())
    return outcome


def retry(folder: Path, job: Job, run_id: str, error: str | None = None, exit_code: int = 0) -> dict[str, Any]:
    return run(folder, job, run_id, exit_code, retry={"error": error})


def sink_of(folder: Path) -> ObjectSink:
    return open_existing(LocalStore(str(folder / "out")))


def each(numbers: list[int]) -> dict[str, list[int]]:
    return {key: list(numbers) for key in KEYS}


def receipts(folder: Path) -> dict[str, Receipt]:
    sink = sink_of(folder)
    return dict(sink.live(sink.newest()))


def read(folder: Path, kind: str) -> list[dict[str, Any]]:
    from gzip import decompress

    store, found = sink_of(folder).store, []
    for receipt in receipts(folder).values():
        for part in getattr(receipt, kind):
            data = store.read(part.name)
            data = decompress(data) if part.name.endswith(".gz") else data
            found += [json.loads(line) for line in data.splitlines()]
    return found


def live(folder: Path) -> dict[str, list[int]]:
    """Which records gave output, by key."""
    found: dict[str, list[int]] = {}
    for record in read(folder, "parts"):
        found.setdefault(record["key"], []).append(record["n"])
    return {key: sorted(numbers) for key, numbers in sorted(found.items())}


def dead(folder: Path) -> dict[str, int]:
    """Id to attempts."""
    return {letter["id"]: letter["attempts"] for letter in read(folder, "dead")}


def calls(folder: Path) -> Counter[str]:
    path = folder / "calls"
    found = Counter(path.read_text().split()) if path.exists() else Counter()
    path.unlink(missing_ok=True)
    return found


def signature(folder: Path, message: str) -> str:
    return next(failing(item).signature for item in read(folder, "dead") if item["error"]["message"] == message)


@pytest.mark.parametrize("compression", ["none", "gz"])
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("handler", [{}, {"concurrency": 3}, {"keep": ("n",)}], ids=["plain", "threads", "keep"])
def test_a_mended_handler_gets_the_dead_letters_alone(folder, compression, delivery, handler) -> None:
    fields = {"compression": compression, "delivery": delivery, **handler}
    first = run(folder, job_of(**fields), "r1")
    assert (first["counts"]["dead"], live(folder)) == (12, each(GIVEN))
    (old,) = receipts(folder)
    calls(folder)
    mended = job_of("left", "right", **fields)
    outcome = retry(folder, mended, "r2")
    assert calls(folder) == {f"{key}{n}": 1 for key in KEYS for n in (1, 3, 4)}
    assert outcome["counts"] == {
        "in": 12, "out_of": 8, "dead": 0, "filtered": 4, "dropped": 0, "out": 12, "blank": 0,
    }  # fmt: skip
    assert (outcome["manifest"], outcome["live"]["in"], outcome["live"]["dead"]) == (2, 24, 0)
    assert live(folder) == each([0, 1, 3, 3, 5, 5])
    assert (folder / "out/_SUCCESS").exists()
    ((name, receipt),) = receipts(folder).items()
    assert (receipt.replaces, receipt.dead, len(receipt.parts)) == (old, (), 2)
    assert name in {str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*.json")}
    assert not (folder / "out" / old).exists()  # swept
    # What was done stays done, whatever is asked next.
    for number, again in enumerate([run, retry]):
        outcome = again(folder, mended, f"quiet-{number}")
        assert (outcome["manifest"], outcome["splits"]["done"]) == (2, 0)
    assert calls(folder) == {}


def test_one_kind_at_a_time(folder) -> None:
    run(folder, job_of(), "r1")
    before = dead(folder)
    left, right = signature(folder, "left"), signature(folder, "right")
    calls(folder)
    outcome = retry(folder, job_of("left"), "r2", left)
    assert outcome["counts"]["in"] == 8
    assert calls(folder) == {f"{key}{n}": 1 for key in KEYS for n in (1, 4)}
    assert live(folder) == each([0, 1, 5, 5])
    # What was not meant is as it was, and in its place.
    assert dead(folder) == {letter: n for letter, n in before.items() if letter in dead(folder)}
    assert [letter["record"]["key"] for letter in read(folder, "dead")] == list(KEYS)
    nothing = retry(folder, job_of("left"), "r3", left)
    assert (nothing["manifest"], nothing["splits"]["done"]) == (2, 0)
    calls(folder)
    # Tried in vain: the attempts add up.
    outcome = retry(folder, job_of("left"), "r4", right)
    assert (outcome["counts"]["in"], outcome["counts"]["dead"], outcome["manifest"]) == (4, 4, 3)
    assert calls(folder) == {f"{key}3": 2 for key in KEYS}
    assert set(dead(folder).values()) == {4}
    retry(folder, job_of("left", "right"), "r5")
    assert live(folder) == each([0, 1, 3, 3, 5, 5])
    assert [len(receipt.parts) for receipt in receipts(folder).values()] == [3]


def test_letters_keep_what_they_say(folder) -> None:
    run(folder, job_of(), "r1")
    before = {letter["id"]: letter for letter in read(folder, "dead")}
    retry(folder, job_of(), "r2")
    after = {letter["id"]: letter for letter in read(folder, "dead")}
    assert list(after) == list(before)
    for name, letter in after.items():
        same = {"attempts": before[name]["attempts"], "retried": None}
        assert {**letter, **same} == {**before[name], "retried": None}
        assert (letter["attempts"], letter["retried"]) == (2 * before[name]["attempts"], 2)


@pytest.mark.parametrize("handler", [{}, {"batch_size": 3}], ids=["plain", "batches"])
def test_poison_is_found_in_a_retry_too(folder, handler) -> None:
    code = (
        CODE.replace("def work(record", "def one(record")
        + """
def work(records, mends=()):
    return [one(record, mends) for record in records] if type(records) is list else one(records, mends)
"""
    )
    (folder / "again_handler.py").write_text(code)
    records = [{"n": n, "bad": "left"} for n in range(7)]
    for key in KEYS:
        write(folder, key, records)
    run(folder, job_of(**handler), "r1", 1)
    assert live(folder) == {}
    # Their records cannot be told from what the letters say: the handler changed.
    (folder / "again_handler.py").write_text(code.replace('record.get("bad")', '"crash" if record["n"] == 4 else None'))
    outcome = retry(folder, job_of(**handler), "r2")
    assert (outcome["counts"]["in"], outcome["counts"]["dead"], outcome["counts"]["out"]) == (28, 4, 24)
    assert live(folder) == each([0, 1, 2, 3, 5, 6])
    assert {(letter["record"]["n"], letter["cause"]) for letter in read(folder, "dead")} == {(4, "crash")}
    # A slot that dies once costs nothing.
    once = '"once" if not (folder / "once").exists() else ""'
    (folder / "again_handler.py").write_text(code.replace('record.get("bad")', once))
    outcome = retry(folder, job_of("left", **handler), "r3")
    assert (outcome["counts"]["in"], outcome["live"]["dead"]) == (4, 0)


def test_bytes_that_were_no_record(folder) -> None:
    (folder / "data/a.jsonl").write_text('{"key": "a", "n": 0}\nnot JSON\n\n{"key": "a", "n": 1, "bad": "left"}')
    run(folder, job_of(), "r1")
    outcome = retry(folder, job_of("left", "right"), "r2")
    assert (outcome["counts"]["in"], outcome["counts"]["dead"]) == (11, 1)
    (letter,) = read(folder, "dead")
    assert (base64.b64decode(letter["raw_base64"]), letter["cause"]) == (b"not JSON\n", "undecodable")
    assert (letter["attempts"], "record" in letter) == (2, False)
    assert live(folder)["a"] == [0, 1]


def test_what_has_no_record_stays_as_it_is(folder) -> None:
    """The rest of an archive that breaks off: nobody knows what was in it."""
    import gzip

    packed = gzip.compress((folder / "data/a.jsonl").read_bytes() * 2000, mtime=0)
    (folder / "data/a.jsonl").unlink()
    (folder / "data/a.jsonl.gz").write_bytes(packed[:-200])
    job = replace(
        job_of(files=1), source=Source(uris=("data/*",), split=Split(files=1)), on_error=OnError(max_failed=10**6)
    )
    run(folder, job, "r1")
    (rest,) = [letter for letter in read(folder, "dead") if "record" not in letter]
    retry(folder, replace(job, handler=job_of("left", "right").handler), "r2")
    assert read(folder, "dead") == [rest]


def test_a_failure_that_ends_the_run(folder) -> None:
    run(folder, job_of(), "r1")
    stop = replace(job_of("left"), on_error=OnError(record="fail"))
    outcome = retry(folder, stop, "r2", exit_code=5)
    assert "record 3: ValueError: right" in outcome["error"]["message"]
    assert outcome["manifest"] == 0
    assert sink_of(folder).newest_number() == 1


def test_what_is_dropped_now_is_counted(folder) -> None:
    run(folder, job_of(), "r1")
    outcome = retry(folder, replace(job_of("left"), on_error=OnError(record="drop", max_failed=100)), "r2")
    assert (outcome["live"]["dead"], outcome["live"]["dropped"], outcome["counts"]["dropped"]) == (0, 4, 4)


def test_a_limit_is_judged_at_the_end_and_what_got_better_is_live(folder) -> None:
    run(folder, job_of(), "r1")
    outcome = retry(folder, replace(job_of("left"), on_error=OnError(max_failed=3)), "r2", exit_code=5)
    assert (outcome["status"], outcome["manifest"], outcome["live"]["dead"]) == ("done", 2, 4)
    assert not (folder / "out/_SUCCESS").exists()
    outcome = retry(folder, replace(job_of("left"), on_error=OnError()), "r3", exit_code=1)
    assert outcome["live"]["dead"] == 4


def test_the_source_is_not_looked_at(folder) -> None:
    run(folder, job_of(), "r1")
    for path in (folder / "data").iterdir():
        path.unlink()
    outcome = retry(folder, job_of("left", "right"), "r2")
    assert outcome["counts"]["in"] == 12
    assert live(folder) == each([0, 1, 3, 3, 5, 5])


@pytest.mark.parametrize("compression", ["none", "gz"])
@pytest.mark.parametrize("gone", ["a", "bd", "abc"])
def test_what_was_retried_is_carried_over(folder, gone, compression) -> None:
    """Retry, then some inputs of the pack are removed and another one is changed."""
    run(folder, job_of(compression=compression), "r1")
    retry(folder, job_of("left"), "r2", signature(folder, "left"))
    retry(folder, job_of("left"), "r3")
    for key in gone:
        (folder / f"data/{key}.jsonl").unlink()
    write(folder, next(key for key in KEYS if key not in gone), [{"n": 9}])
    job = job_of("left", compression=compression)
    run(folder, job, "r4")
    expected = {key: [0, 1, 5, 5] for key in KEYS}
    expected[next(key for key in KEYS if key not in gone)] = [9]
    assert live(folder) == expected
    n_live = {receipt.split: len(receipt.units) for receipt in receipts(folder).values()}
    assert sum(n_live.values()) == 4
    # And once more, out of what was carried over; then what is left of it is retried.
    write(folder, gone[0], [{"n": 8}])
    run(folder, job, "r5")
    assert live(folder) == expected | {gone[0]: [8]}
    retry(folder, job_of("left", "right", compression=compression), "r6")
    for key in gone[1:]:
        expected[key] = [0, 1, 3, 3, 5, 5]
    assert {key: live(folder)[key] for key in gone[1:]} == {key: expected[key] for key in gone[1:]}
    assert dead(folder) == {}


def test_another_handler_does_everything_again(folder) -> None:
    run(folder, job_of(), "r1")
    retry(folder, job_of("left"), "r2")
    outcome = run(folder, job_of("left", "right"), "r3")
    assert (outcome["counts"]["in"], outcome["live"]["dead"]) == (24, 0)
    assert [receipt.replaces for receipt in receipts(folder).values()] == [""]


def test_unfinished_work_of_others_is_left_alone(folder) -> None:
    """What a run that was killed has done is neither published by a retry nor thrown away."""
    run(folder, job_of(files=1), "r1")
    write(folder, "e", [{"n": 0}])
    run(folder, job_of(files=1), "r2")
    # As if that run had not published.
    for path in [*(folder / "out/_modalbatch").glob("manifest-000002*"), folder / "out/_SUCCESS"]:
        path.unlink()
    (folder / "out/_modalbatch/runs/r2/end.json").unlink()
    outcome = run_job(job_of("left", "right", files=1), folder, run_id="r3", retry={"error": None})
    assert (outcome["exit_code"], outcome["live"]["in"]) == (0, 24)
    assert "e" not in live(folder)
    calls(folder)
    outcome = run(folder, job_of(files=1), "r4", keep=True)
    assert (outcome["live"]["in"], live(folder)["e"]) == (25, [0])
    assert calls(folder) == {}


class Dying(Pool):
    """A map that breaks off after so many answers; what is running still ends."""

    def __init__(self, job: Job, n_answers: int) -> None:
        super().__init__(job)
        self.n_left = n_answers

    async def map(self, feed, **options):
        async for answer in super().map(feed, **options):
            yield answer
            self.n_left -= 1
            if not self.n_left:
                raise ConnectionError("the engine is gone")

    def close(self) -> None:
        self._threads.shutdown()  # a slot that is busy would be nobody's
        super().close()


def die(folder: Path, job: Job, run_id: str, n_answers: int, error: str | None = None) -> set[str]:
    """A retry whose engine dies; the keys whose letters it has done."""
    with module_path(folder):
        pool = Dying(job, n_answers)
        try:
            engine = {"kind": "local", "home": "here", "id": run_id}
            outcome = run_job(job, folder, run_id=run_id, engine=engine, pool=pool, retry={"error": error})
        finally:
            pool.close()
    assert (outcome["exit_code"], sink_of(folder).newest_number()) == (75, 1)
    sink = sink_of(folder)
    found = [sink.read_receipt(entry.name) for entry in sink.store.list("_modalbatch/receipts/")]
    units = [unit for receipt in found if receipt and receipt.replaces for unit in receipt.units]
    return {Path(unit.uri).stem for unit in units}


def test_a_retry_of_another_kind_goes_on_from_one_that_died(folder) -> None:
    run(folder, job_of(files=1), "r1")
    left, right = signature(folder, "left"), signature(folder, "right")
    mended = job_of("left", "right", files=1)
    calls(folder)
    done = die(folder, mended, "r2", 2, left)
    assert 2 <= len(done) < 4
    outcome = retry(folder, mended, "r3", right)
    assert (outcome["counts"]["in"], outcome["live"]["dead"]) == (4, 2 * (4 - len(done)))
    assert live(folder) == {key: [0, 1, 3, 3, 5, 5] if key in done else [0, 3, 3, 5, 5] for key in KEYS}
    outcome = retry(folder, mended, "r4")
    assert (outcome["counts"]["in"], outcome["live"]["dead"]) == (2 * (4 - len(done)), 0)
    assert live(folder) == each([0, 1, 3, 3, 5, 5])
    assert calls(folder) == {f"{key}{n}": 1 for key in KEYS for n in (1, 3, 4)}


def test_what_failed_again_is_not_tried_once_more_by_the_one_that_goes_on(folder) -> None:
    run(folder, job_of(files=1), "r1")
    calls(folder)
    half = job_of("left", files=1)
    done = die(folder, half, "r2", 2)
    assert 2 <= len(done) < 4
    outcome = retry(folder, half, "r3")
    assert (outcome["splits"]["done"], outcome["live"]["dead"]) == (4 - len(done), 4)
    # One retry of each call, so two calls for what fails.
    assert calls(folder) == {f"{key}{n}": 2 if n == 3 else 1 for key in KEYS for n in (1, 3, 4)}
    # A new retry is a new one.
    assert retry(folder, half, "r4")["counts"]["in"] == 4


@pytest.mark.parametrize("keep", [True, False], ids=["keep", "redo"])
@pytest.mark.parametrize("is_all", [True, False], ids=["all", "one"])
def test_what_an_unfinished_retry_did_for_inputs_that_are_gone_stays(folder, keep, is_all) -> None:
    run(folder, job_of(files=2), "r1")
    mended = job_of("left", "right", files=2)
    done = die(folder, mended, "r2", 1)
    assert len(done) == 2
    gone = sorted(done)[: 2 if is_all else 1]
    for key in gone:
        (folder / f"data/{key}.jsonl").unlink()
    expected = each([0, 1, 3, 3, 5, 5])
    if not is_all:
        changed = sorted(done)[1]
        write(folder, changed, [{"n": 9}])
        expected[changed] = [9]
    calls(folder)
    run(folder, mended, "r3", keep=keep)
    assert not [call for call in calls(folder) if call[0] in gone]
    if keep:
        retry(folder, mended, "r4")
    assert live(folder) == expected
    assert dead(folder) == {}


def test_two_retries_at_once_are_one(folder) -> None:
    """promise 6: what the other one has done is taken, by whichever publishes."""
    run(folder, job_of(files=1), "r1")
    mended = job_of("left", "right", files=1)
    with ThreadPoolExecutor(2) as threads:
        both = [
            threads.submit(run_job, mended, folder, run_id=f"both-{n}", n_workers=1, retry={"error": None})
            for n in range(2)
        ]
        outcomes = [item.result() for item in both]
    assert {outcome["exit_code"] for outcome in outcomes} <= {0, 75}
    outcome = retry(folder, mended, "after")
    assert (outcome["splits"]["done"], outcome["live"]["dead"]) == (0, 0)
    assert live(folder) == each([0, 1, 3, 3, 5, 5])


def test_something_that_is_gone_is_said(folder) -> None:
    run(folder, job_of(files=1), "r1")
    next((folder / "out").glob("part-*")).unlink()
    outcome = run_job(job_of("left", files=1), folder, run_id="r2", retry={"error": None})
    assert outcome["exit_code"] == 2
    assert outcome["error"]["message"].startswith("something that `_modalbatch/receipts/")
    letters = next((folder / "out/_modalbatch/dead").iterdir())
    letters.write_bytes(letters.read_bytes().replace(b"left", b"lost"))


def test_altered_letters_are_refused(folder) -> None:
    run(folder, job_of(files=1), "r1")
    letters = next((folder / "out/_modalbatch/dead").iterdir())
    letters.write_bytes(letters.read_bytes().replace(b"left", b"lost"))
    outcome = run_job(job_of("left", files=1), folder, run_id="r2", retry={"error": None})
    assert outcome["error"]["message"] == f"`_modalbatch/dead/{letters.name}` of the sink was altered"
    assert sink_of(folder).newest_number() == 1


def test_nothing_is_published_yet(folder) -> None:
    outcome = run_job(job_of(), folder, run_id="r1", retry={"error": None})
    assert (outcome["exit_code"], outcome["error"]["message"]) == (2, "nothing is published yet")
