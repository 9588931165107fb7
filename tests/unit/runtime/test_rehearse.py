"""One record, tried for a person: every form of a handler, and what it says; through the real worker and slot."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import module_path
from modalbatch.job import Handler, Job, Sink, Source
from modalbatch.runtime.rehearse import MAX_SAID_BYTES, rehearsal
from modalbatch.runtime.worker import Worker

LETTER: dict[str, Any] = {"id": "s-0", "uri": "data/a.jsonl", "cause": "raised", "record": {"n": 7, "id": "a"}}
_N_MODULES = [0]


@pytest.fixture
def rehearse(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(code: str, letter: dict[str, Any] = LETTER, *, call: str = "work", **fields: Any) -> dict[str, Any]:
        _N_MODULES[0] += 1
        module = f"rehearsed_{_N_MODULES[0]}"
        (tmp_path / f"{module}.py").write_text(code)
        job = Job(
            name="rehearse",
            handler=Handler(call=f"{module}:{call}", **fields),
            source=Source(uris=("data/*.jsonl",)),
            sink=Sink(uri=f"{tmp_path}/out/"),
        )
        with module_path(tmp_path):
            worker = Worker(job.to_json())
            try:
                answer = json.loads(worker.process(rehearsal(letter)))
            finally:
                worker.close()
        assert not (tmp_path / "out").exists()
        return answer

    return run


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("def work(r): return {'m': r['n']}", {}),
        ("async def work(r): return {'m': r['n']}", {"concurrency": 4}),
        ("def work(rs): return [{'m': r['n']} for r in rs]", {"batch_size": 8}),
        ("async def work(rs): return [{'m': r['n']} for r in rs]", {"batch_size": 8}),
        ("def work(r): yield {'m': r['n']}", {}),
        ("class Work:\n  def __init__(self, k): self.k = k\n  def __call__(self, r): return {self.k: r['n']}",
         {"call": "Work", "args": {"k": "m"}}),
    ],
    ids=["plain", "async", "batch", "async batch", "generator", "class"],
)  # fmt: skip
def test_every_form(rehearse, code, fields) -> None:
    answer = rehearse(code, **fields)
    assert (answer["ok"], json.loads(answer["results"]), answer["error"]) == (True, {"m": 7}, None)


def test_what_is_kept_and_how_many(rehearse) -> None:
    answer = rehearse("def work(r):\n  r['n'] = 0\n  return [{'m': 1}, {'n': 2}]", keep=("n",))
    assert [json.loads(line) for line in answer["results"].splitlines()] == [{"m": 1, "n": 7}, {"n": 2}]
    answer = rehearse("def work(r): return None")
    assert (answer["ok"], answer["results"]) == (True, "")


@pytest.mark.parametrize(
    ("code", "fields", "kind", "message"),
    [
        ("def work(r): raise ValueError('no')", {}, "ValueError", "no"),
        ("def work(r): raise SystemExit(3)", {}, "SystemExit", "3"),
        ("def work(rs): return [KeyError('k')]", {"batch_size": 2}, "KeyError", "'k'"),
        ("def work(r): return {'x': float('nan')}", {}, "ValueError",
         "`nan` has no JSON form; return None or a string instead"),
        ("def work(r): return 7", {}, "TypeError",
         "the handler returned a int; return a dict, None, or a list of dicts"),
        ("import os\ndef work(r): os._exit(9)", {}, "crash", "the slot ended with exit code 9"),
        ("import threading\ndef work(r): threading.Event().wait()", {"timeout_s": 0.5}, "timeout",
         "the call did not return within 0.5 s"),
        ("raise RuntimeError('at once')", {}, "RuntimeError", "at once"),
    ],
    ids=["raises", "exits", "item", "nan", "number", "crash", "hang", "start"],
)  # fmt: skip
def test_every_failure(rehearse, code, fields, kind, message) -> None:
    answer = rehearse(code, **fields)
    assert (answer["ok"], answer["results"]) == (False, "")
    assert (answer["error"]["type"], answer["error"]["message"]) == (kind, message)


def test_it_is_tried_once_and_what_it_says_is_told(rehearse) -> None:
    code = (
        "import os\ndef work(r):\n  print('hello', flush=True)\n  os.system('echo from a child')\n  raise TimeoutError"
    )
    answer = rehearse(code)
    assert answer["said"] == "hello\nfrom a child\n"
    answer = rehearse(f"def work(r):\n  print('x' * {2 * MAX_SAID_BYTES})\n  print('end')")
    assert len(answer["said"]) == MAX_SAID_BYTES
    assert answer["said"].endswith("x\nend\n")


def test_bytes_go_through_the_decoder(rehearse) -> None:
    code = "def work(r): return r"
    letter = {key: value for key, value in LETTER.items() if key != "record"}
    answer = rehearse(code, {**letter, "raw_base64": base64.b64encode(b'{"n": 1}\n').decode()})
    assert json.loads(answer["results"]) == {"n": 1}
    answer = rehearse(code, {**letter, "raw_base64": base64.b64encode(b"[1]\n").decode()})
    assert answer["error"] == {"type": "undecodable", "message": "expected an object, found an array", "traceback": ""}
