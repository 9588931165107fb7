"""Input as bad as it gets, through the real driver, worker and slot: a dead letter or a named error, and nothing lost.

Numbers are those of the list of bad inputs that the product was planned with.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from pathlib import Path

import pytest

from harness import run_job
from modalbatch.formats.compression import open_compressor
from modalbatch.job import Compute, Handler, Job, OnError, Retries, Sink, Source
from modalbatch.names import parse_receipt_name
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores.local import LocalStore

ECHO = "def work(r): return r\n"
GOOD = b'{"n": 0}\n'
LAST = b'{"n": 9}\n'
#: What the handler's process had in memory at most, in MiB; of this program alone, unlike `ru_maxrss`.
PEAK = r"""
import re
def work(r):
    status = open("/proc/self/status").read()
    return {"n": r["n"], "peak": int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024}
"""
MOST_PEAK_MIB = 160


def raw(letter: dict) -> bytes:
    return base64.b64decode(letter["raw_base64"])


@pytest.fixture
def job(tmp_path: Path):
    """`job(code, files, fields…)` runs a job over files with any name; outcome, records, letters."""

    def run(code: str, files: dict[str, bytes], *, run_id: str = "r", uris=("data/",), **source):
        (tmp_path / "bad_handler.py").write_text(f"folder = {str(tmp_path)!r}\n{code}")
        for name, data in files.items():
            path = tmp_path / "data" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        made = Job(
            name="bad",
            handler=Handler(call="bad_handler:work", version="1"),
            source=Source(uris=uris, **source),
            sink=Sink(uri="out/"),
            retries=Retries(max_retries=1, initial_delay_s=0.0),
            on_error=OnError(max_failed=10**6),
            compute=Compute(timeout_s=120),
        )
        return run_job(made, tmp_path, run_id=run_id)

    return run


def contents(folder: Path, *, parts: bool = True) -> tuple[list[dict], list[dict]]:
    sink = ObjectSink(LocalStore(str(folder / "out")))
    records, letters = [], []
    for _, receipt in sink.live(sink.newest()):
        for part in receipt.parts if parts else ():
            records += [json.loads(line) for line in sink.store.read(part.name).split(b"\n") if line]
        for part in receipt.dead:
            letters += [json.loads(line) for line in sink.store.read(part.name).split(b"\n") if line]
    return records, letters


# -- 70 to 72: nothing


def test_an_empty_file_is_done_and_gives_nothing(job, tmp_path) -> None:
    """bad input 70"""
    outcome = job(ECHO, {"a.jsonl": b"", "b.jsonl.gz": b"", "c.jsonl": b"\n \n"})
    assert outcome["exit_code"] == 0
    assert (outcome["counts"]["in"], outcome["counts"]["out"], outcome["counts"]["blank"]) == (0, 0, 2)
    names = [entry.name for entry in LocalStore(str(tmp_path / "out")).list() if parse_receipt_name(entry.name)]
    assert names
    assert job(ECHO, {}, run_id="again")["splits"]["done"] == 0


@pytest.mark.parametrize("fields", [{}, {"batch_size": 2}])
def test_blank_lines_are_counted_and_nothing_else(run, fields) -> None:
    """bad input 72"""
    ran = run(ECHO, b"\n" + GOOD + b" \t\r\n\n" + LAST + b"\n\n", **fields)
    assert sorted(record["n"] for record in ran.records) == [0, 9]
    assert (ran.outcome["counts"]["blank"], ran.counts) == (5, (2, 2, 0, 0, 0))


# -- 73 to 80, 86: lines that are no records


@pytest.mark.parametrize("fields", [{}, {"batch_size": 2}, {"concurrency": 2}], ids=["each", "batch", "threads"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(b'{"n": 1} x', "trailing", id="73"),
        pytest.param(b'{"n": 1}{"n": 2}', "trailing", id="73-two"),
        pytest.param(b'{"n": NaN}', "", id="74-nan"),
        pytest.param(b'{"n": -Infinity}', "", id="74-infinity"),
        pytest.param(b'{"n": 1e400}', "out of range", id="74-1e400"),
        pytest.param(b'{"n": 1, "n": 2}', 'the key "n" stands twice in one object', id="75"),
        pytest.param(b'{"n": 1, "n" : 1}', 'the key "n" stands twice in one object', id="75-space"),
        pytest.param(b'{"n": 1, "\\u006e": 1}', 'the key "n" stands twice in one object', id="75-escape"),
        pytest.param(b'{"n": {"a": [{"b": 1, "b": "::"}]}}', 'the key "b" stands twice', id="75-deep"),
        pytest.param(b'{"n": "\\u003a", "n": "\\u003A"}', 'the key "n" stands twice', id="75-colon"),
        pytest.param(b'{"n": ' + b"9" * 6000 + b"}", "", id="76-6000-digits"),
        pytest.param(b'{"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply", id="77"),
        pytest.param(b'{"n": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_001, "nested too deeply", id="77-objects"),
        pytest.param(b'{"n": "\\ud800"}', "", id="78"),
        pytest.param(b'{"n": "\\udc00\\ud800"}', "", id="78-swapped"),
        pytest.param(b'{"\\udfff": 1}', "", id="78-key"),
        pytest.param(b'{"n": "\xff"}', "", id="80"),
        pytest.param(b'{"n": "\xed\xa0\x80"}', "", id="80-surrogate"),
        pytest.param(b'{"n": "\xc0\xaf"}', "", id="80-overlong"),
        pytest.param(b"[1]", "expected an object, found an array", id="86-array"),
        pytest.param(b'"x"', "expected an object, found a string", id="86-string"),
        pytest.param(b"null", "expected an object, found null", id="86-null"),
        pytest.param(b"1", "expected an object, found a number", id="86-number"),
        pytest.param(b'{"n": 1}\r{"n": 2}', "", id="82-lone-cr"),
        pytest.param(b"\x0c", "", id="83-form-feed-alone"),
    ],
)
def test_a_line_that_is_no_record_is_a_dead_letter(run, line, message, fields) -> None:
    """bad input 73, 74, 75, 76, 77, 78, 80, 82, 86"""
    ran = run("def work(r): return r", GOOD + line + b"\n" + LAST, **fields)
    assert sorted(record["n"] for record in ran.records) == [0, 9]
    [letter] = ran.letters
    assert (letter["cause"], raw(letter), letter["position"]) == (
        "undecodable",
        line + b"\n",
        {"offset": len(GOOD), "ordinal": 1},
    )
    assert message in letter["error"]["message"]
    assert ran.counts == (3, 2, 1, 0, 0)


@pytest.mark.parametrize("n", [100, 190, 210, 900, 970, 980, 985, 990, 995, 1000, 1100])
@pytest.mark.parametrize("raises", [False, True])
def test_nesting_about_as_deep_as_can_be_read_never_ends_a_split(job, tmp_path, n, raises) -> None:
    """bad input 77: what can be read may be too deep for the handler, for the part, or for a dead letter."""
    line = b'{"n":' + b"[" * n + b"]" * n + b"}\n"
    code = f"def work(r):\n  if r['n'] not in (0, 9) and {raises}: raise ValueError('x')\n  return r"
    outcome = job(code, {"x.jsonl": GOOD + line + LAST})
    assert (outcome["exit_code"], outcome["counts"]["in"]) == (0, 3)
    store = LocalStore(str(tmp_path / "out"))
    lines = b"".join(store.read(entry.name) for entry in store.list("part-")).splitlines(keepends=True)
    letters = contents(tmp_path, parts=False)[1]
    assert [found for found in lines if len(found) < 12] == [b'{"n":0}\n', b'{"n":9}\n']
    assert len(lines) + len(letters) == 3
    assert [found for found in lines if len(found) > 12] in ([], [line])
    assert all("record" in letter if n < 200 else raw(letter) == line for letter in letters)


def test_a_handler_that_lifts_the_limit_of_nesting_does_not_lift_ours(run) -> None:
    """bad input 77"""
    line = b'{"n": ' + b"[" * 300_000 + b"]" * 300_000 + b"}\n"
    ran = run("import sys\nsys.setrecursionlimit(10**9)\ndef work(r): return r", GOOD + line + LAST)
    assert sorted(record["n"] for record in ran.records) == [0, 9]
    assert [(letter["cause"], letter["error"]["message"]) for letter in ran.letters] == [
        ("undecodable", "nested too deeply")
    ]


# -- 76 to 84, 103, 104: lines that are records


@pytest.mark.parametrize("fields", [{}, {"batch_size": 2}], ids=["each", "batch"])
@pytest.mark.parametrize(
    ("line", "value"),
    [
        pytest.param(b'{"v": 9223372036854775808}\n', 2**63, id="76"),
        pytest.param(b'{"v": -99999999999999999999999999}\n', -99999999999999999999999999, id="76-negative"),
        pytest.param(b'{"v": "a\\u0000b"}\n', "a\0b", id="79"),
        pytest.param(b'\xef\xbb\xbf{"v": 1}\n', 1, id="81"),
        pytest.param(b'{"v": 1}\r\n', 1, id="82-crlf"),
        pytest.param(b'{"v": "a\\rb"}\n', "a\rb", id="82-escaped-cr"),
        pytest.param('{"v": "\u2028\u2029\x85"}\n'.encode(), "\u2028\u2029\x85", id="83"),
        pytest.param(b'{"v": 1}', 1, id="84"),
        pytest.param(b'{"v": "{{7*7}}${{7*7}}{% raw %}"}\n', "{{7*7}}${{7*7}}{% raw %}", id="103"),
        pytest.param(b'{"v": "=cmd|\'/C calc\'!A0"}\n', "=cmd|'/C calc'!A0", id="104"),
        pytest.param(b'{"v": "https://x.y/:80", "at": "12:00:00"}\n', "https://x.y/:80", id="75-colons"),
        pytest.param(b'{"v": {"a": {"v": "\\u003a:"}}}\n', {"a": {"v": "::"}}, id="75-names-of-others"),
        pytest.param(b'{"v": 1.5e-300}\n', 1.5e-300, id="small"),
    ],
)
def test_a_line_that_looks_odd_and_is_a_record(run, line, value, fields) -> None:
    """bad input 76, 79, 81, 82, 83, 84, 103, 104: and all the same in a dead letter"""
    ran = run(ECHO, line, **fields)
    assert [record["v"] for record in ran.records] == [value]
    assert ran.letters == []
    ran = run("def work(r): raise ValueError('{{7*7}}')", line, **fields)
    assert [letter["record"]["v"] for letter in ran.letters] == [value]
    assert ran.letters[0]["error"]["message"] == "{{7*7}}"


def test_only_one_byte_order_mark_is_taken_off(run) -> None:
    """bad input 81"""
    mark = b"\xef\xbb\xbf"
    ran = run(ECHO, mark + mark + GOOD + mark + GOOD + LAST)
    assert [record["n"] for record in ran.records] == [9]
    assert [raw(letter) for letter in ran.letters] == [mark + GOOD, mark + GOOD]


# -- 85: records that are too long


@pytest.mark.parametrize("fields", [{}, {"batch_size": 2}, {"concurrency": 2}], ids=["each", "batch", "threads"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_record_over_the_limit_is_a_dead_letter(run, fields, suffix) -> None:
    """bad input 85"""
    long = b'{"n": "' + b"x" * (17 << 20) + b'"}\n'
    data = GOOD + long + LAST
    ran = run(ECHO, gzip.compress(data, 1) if suffix else data, suffix=suffix, **fields)
    assert sorted(record["n"] for record in ran.records) == [0, 9]
    [letter] = ran.letters
    assert letter["cause"] == "oversize"
    assert letter["error"]["message"] == (f"a record of {len(long)} bytes, more than `source.max_record` (16777216)")
    assert letter["position"] == {"offset": len(GOOD), "ordinal": 1}
    assert (letter["bytes"], base64.b64decode(letter["head_base64"])) == (len(long), long[:4096])
    assert "record" not in letter
    assert ran.counts == (3, 2, 1, 0, 0)


@pytest.mark.parametrize("end", [b"\n", b""])
def test_the_limit_is_exact_wherever_the_line_is_cut(run, end) -> None:
    """bad input 85"""
    fits, too_long = (b'{"v":"' + b"x" * n + b'"}' for n in (992, 993))
    ran = run(ECHO, too_long + b"\n" + fits + b"\n" + fits + b"\n" + too_long + end, max_record_bytes=1000, split=1500)
    assert [len(record["v"]) for record in ran.records] == [992, 992]
    found = sorted((letter["position"]["offset"], letter["bytes"]) for letter in ran.letters)
    assert found == [(0, 1002), (1002 + 2 * 1001, 1001 + len(end))]


@pytest.mark.parametrize("size_mib", [256])
@pytest.mark.parametrize("end", [b"\n", b""], ids=["ended", "endless"])
def test_memory_does_not_grow_with_a_line(job, tmp_path, size_mib, end) -> None:
    """bad input 85: a line without an end, in ranges of a file"""
    (tmp_path / "data").mkdir()
    with (tmp_path / "data/x.jsonl").open("wb") as file:
        file.write(GOOD)
        for _ in range(size_mib):
            file.write(b"x" * (1 << 20))
        file.write(end)
    outcome = job(PEAK, {"y.jsonl": LAST}, split=_bytes(1 << 30))
    records, letters = contents(tmp_path)
    assert outcome["counts"]["in"] == 3
    assert [letter["bytes"] for letter in letters] == [(size_mib << 20) + len(end)]
    assert max(record["peak"] for record in records) <= MOST_PEAK_MIB


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_memory_does_not_grow_with_a_bomb(job, tmp_path, kind) -> None:
    """bad input 94: what decompresses to one line without an end"""
    compress = open_compressor(kind)
    bomb = compress(GOOD) + compress(b"[" * (1 << 20)) * 256 + compress(b"\n" + LAST)
    outcome = job(PEAK, {f"x.jsonl.{kind}": bomb})
    records, letters = contents(tmp_path)
    assert outcome["counts"]["in"] == 3
    assert [letter["cause"] for letter in letters] == ["oversize"]
    assert [record["n"] for record in records] == [0, 9]
    assert records[1]["peak"] <= MOST_PEAK_MIB


def test_memory_does_not_grow_with_the_number_of_bad_lines(job, tmp_path) -> None:
    """bad input 80: many large lines that cannot be read, each kept whole in its letter"""
    line = b'{"n": "\xff' + b"x" * (4 << 20) + b'"}\n'
    outcome = job(PEAK, {"x.jsonl": line * 40 + LAST})
    records, letters = contents(tmp_path)
    assert (outcome["counts"]["dead"], len(letters)) == (40, 40)
    assert records[0]["peak"] <= MOST_PEAK_MIB


# -- 92 to 95: archives


def test_what_comes_before_the_break_of_an_archive_is_kept(run) -> None:
    """F66 L: bad input 92, F66"""
    data = gzip.compress(b"".join(b'{"n": %d}\n' % n for n in range(50_000)), 1)
    ran = run(ECHO, data[: len(data) // 2], suffix=".gz")
    n_records = len(ran.records)
    assert 0 < n_records < 50_000
    assert [record["n"] for record in ran.records] == list(range(n_records))
    [letter] = ran.letters
    assert (letter["cause"], letter["records"]) == ("undecodable", "unknown")
    assert letter["error"]["message"] == "`data/x.jsonl.gz` ends in the middle of its gzip data"
    assert ran.counts == (n_records + 1, n_records, 1, 0, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(gzip.compress(GOOD) + b"garbage" * 9, "`data/x.jsonl.gz` is not whole gzip data", id="93-garbage"),
        pytest.param(gzip.compress(GOOD) + bytes(512), None, id="93-zeros"),
        pytest.param(gzip.compress(GOOD[:4]) + gzip.compress(b"") + gzip.compress(GOOD[4:]), None, id="93-members"),
    ],
)
def test_what_stands_behind_an_archive(run, data, message) -> None:
    """bad input 93"""
    ran = run(ECHO, data, suffix=".gz")
    assert [record["n"] for record in ran.records] == [0]
    assert [letter["error"]["message"].startswith(message) for letter in ran.letters] == [True] * bool(message)


@pytest.mark.parametrize(
    ("data", "suffix", "message"),
    [
        pytest.param(
            gzip.compress(gzip.compress(GOOD * 1000)),
            ".gz",
            "`data/x.jsonl.gz` is compressed twice: gzip data inside gzip data",
            id="94-double",
        ),
        pytest.param(GOOD, ".gz", "`data/x.jsonl.gz` holds plain data, expected gzip data", id="95-plain"),
        pytest.param(gzip.compress(GOOD), "", "`data/x.jsonl` holds gzip data, expected plain data", id="95-gz"),
    ],
)
def test_an_archive_that_is_not_what_its_name_says(run, data, suffix, message) -> None:
    """bad input 94, 95"""
    ran = run(ECHO, data, suffix=suffix)
    assert ran.records == []
    assert [(letter["error"]["message"], letter["records"]) for letter in ran.letters] == [(message, "unknown")]


def test_a_spec_may_say_what_a_name_does_not(job, tmp_path) -> None:
    """bad input 95"""
    assert job(ECHO, {"x.dat": gzip.compress(GOOD)}, compression="gz")["exit_code"] == 0
    assert contents(tmp_path)[0] == [{"n": 0}]


# -- 101, 102: files


CHANGES = {
    "appended": "open(path, 'ab').write(b'{\"n\": 7}\\n')",
    "rewritten": "open(path, 'wb').write(b'{\"n\": 7}\\n')",
    "gone": "os.remove(path)",
    "another": "os.replace(path + '.new', path)",
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_file_that_changes_while_it_is_read(job, tmp_path, change) -> None:
    """bad input 101, F47, F48"""
    code = f"""
import os
path = folder + "/data/x.jsonl"
def work(r):
    if r["n"] == 3 and not os.path.exists(folder + "/changed"):
        open(folder + "/changed", "w").close()
        {CHANGES[change]}
    return r
"""
    lines = b"".join(b'{"n": %d, "pad": "%s"}\n' % (n, b"x" * 1000) for n in range(500))
    uris, split = ("data/*.jsonl",), _bytes(100_000)
    outcome = job(
        code, {"x.jsonl": lines, "y.jsonl": LAST, "x.jsonl.new": lines.partition(b"\n")[2]}, uris=uris, split=split
    )
    assert outcome["exit_code"] == 75, outcome
    assert "data/x.jsonl" in outcome["error"]["message"]
    sink = ObjectSink(LocalStore(str(tmp_path / "out")))
    assert sink.newest() is None
    assert job(code, {}, uris=uris, split=split, run_id="again")["exit_code"] == 0
    left = tmp_path / "data/x.jsonl"
    expected = left.read_bytes() if left.exists() else b""
    records, letters = contents(tmp_path)
    assert sorted(record["n"] for record in records) == sorted(
        [9, *(json.loads(line)["n"] for line in expected.splitlines())]
    )
    assert letters == []


@pytest.mark.parametrize(
    "name", ["new\nline.jsonl", "quo'te.jsonl", '"><img onerror=x>.jsonl', "x" * 249 + ".jsonl", "é中\u202e.jsonl"]
)
def test_odd_file_names(job, tmp_path, name) -> None:
    """bad input 102"""
    outcome = job(ECHO, {name: GOOD + b"no\n"})
    assert outcome["counts"]["out"] == 1
    records, letters = contents(tmp_path)
    assert records == [{"n": 0}]
    assert [letter["uri"] for letter in letters] == [f"data/{name}"]
    assert job(ECHO, {}, run_id="again")["splits"]["done"] == 0
    shutil.rmtree(tmp_path / "data")


def test_a_file_name_that_is_no_text_is_named(job, tmp_path) -> None:
    """bad input 102"""
    outcome = job(ECHO, {"a.jsonl": GOOD})
    with open(bytes(tmp_path) + b"/data/\xff.jsonl", "wb") as file:
        file.write(GOOD)
    outcome = job(ECHO, {}, run_id="again")
    assert outcome["exit_code"] == 2
    assert outcome["error"]["message"] == "the name of `data/\\udcff.jsonl` is not UTF-8"
    assert outcome["error"]["hint"] == "rename the file"


def _bytes(n: int):
    from modalbatch.job import Split

    return Split(bytes=n)
