"""Every form that a handler may have."""

from __future__ import annotations

import pytest

from modalbatch.job import Retries

RECORDS = [{"n": n} for n in range(10)]
PLUS = [{"n": n + 1} for n in range(10)]

FORMS = {
    "function": ("def work(r): return {'n': r['n'] + 1}", {}),
    "arguments": ("def work(r, plus): return {'n': r['n'] + plus}", {"args": {"plus": 1}}),
    "class": (
        "class Work:\n  def __init__(self, plus): self.plus = plus\n"
        "  def __call__(self, r): return {'n': r['n'] + self.plus}",
        {"call": "Work", "args": {"plus": 1}},
    ),
    "method of a module's object": (
        "class W:\n  def go(self, r): return {'n': r['n'] + 1}\nobject_ = W()",
        {"call": "object_.go"},
    ),
    "list": ("def work(r): return [{'n': r['n'] + 1}]", {}),
    "generator": ("def work(r):\n  yield {'n': r['n'] + 1}", {}),
    "coroutine": ("import asyncio\nasync def work(r):\n  await asyncio.sleep(0)\n  return {'n': r['n'] + 1}", {}),
    "coroutines at a time": (
        "import asyncio\nasync def work(r):\n  await asyncio.sleep(0.001 * (10 - r['n']))\n  return {'n': r['n'] + 1}",
        {"concurrency": 4},
    ),
    "asynchronous generator": ("async def work(r):\n  yield {'n': r['n'] + 1}", {}),
    "asynchronous class": (
        "class Work:\n  async def __call__(self, r): return {'n': r['n'] + 1}",
        {"call": "Work", "concurrency": 2},
    ),
    "threads": (
        "import time\ndef work(r):\n  time.sleep(0.001 * (10 - r['n']))\n  return {'n': r['n'] + 1}",
        {"concurrency": 4},
    ),
    "batch": ("def work(rs): return [{'n': r['n'] + 1} for r in rs]", {"batch_size": 3}),
    "batch of one": ("def work(rs): return [{'n': rs[0]['n'] + 1}]", {"batch_size": 1}),
    "batch generator": ("def work(rs):\n  for r in rs: yield {'n': r['n'] + 1}", {"batch_size": 4}),
    "batch tuple": ("def work(rs): return tuple({'n': r['n'] + 1} for r in rs)", {"batch_size": 4}),
    "batch coroutine": (
        "async def work(rs): return [{'n': r['n'] + 1} for r in rs]",
        {"batch_size": 4, "concurrency": 3},
    ),
    "batch threads": ("def work(rs): return [{'n': r['n'] + 1} for r in rs]", {"batch_size": 3, "concurrency": 3}),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_each_form_gives_the_records_in_order(run, form) -> None:
    code, fields = FORMS[form]
    ran = run(code, RECORDS, **fields)
    assert ran.outcome["exit_code"] == 0, ran.outcome
    assert ran.records == PLUS


@pytest.mark.parametrize("fields", [{}, {"concurrency": 3}])
def test_none_filters_and_lists_multiply(run, fields) -> None:
    ran = run("def work(r): return None if r['n'] % 2 else [{'n': r['n']}, {'n': -r['n']}]", RECORDS, **fields)
    assert ran.records == [{"n": sign * n} for n in range(0, 10, 2) for sign in (1, -1)]
    assert ran.counts == (10, 10, 0, 5, 0)


def test_an_empty_list_is_no_filter(run) -> None:
    ran = run("def work(r): return []", RECORDS)
    assert ran.outcome["counts"] == {
        "in": 10, "out_of": 10, "out": 0, "dead": 0, "filtered": 0, "dropped": 0, "blank": 0,
    }  # fmt: skip


def test_keep_copies_fields_that_the_result_lacks(run) -> None:
    code = "def work(r): return [{'b': 2}, {'a': 3}]"
    ran = run(code, [{"a": 1, "c": 4}], keep=("a", "zzz"))
    assert ran.records == [{"b": 2, "a": 1}, {"a": 3}]


def test_close_runs_at_the_end(run, tmp_path) -> None:
    code = """
    class Work:
        def __call__(self, r): return r
        def close(self): open(folder + "/closed", "w").close()
    """
    run(code, RECORDS, call="Work")
    assert (tmp_path / "closed").exists()


def test_a_batch_may_answer_with_exceptions_for_single_records(run) -> None:
    code = "def work(rs): return [ValueError('odd') if r['n'] % 2 else r for r in rs]"
    ran = run(code, RECORDS, batch_size=4)
    assert [record["n"] for record in ran.records] == [0, 2, 4, 6, 8]
    assert [(letter["record"]["n"], letter["attempts"]) for letter in ran.letters] == [(n, 2) for n in (1, 3, 5, 7, 9)]


def test_a_batch_that_raises_is_halved_to_the_culprit(run) -> None:
    code = "def work(rs):\n  if any(r['n'] == 5 for r in rs): raise ValueError('five')\n  return rs"
    ran = run(code, RECORDS, batch_size=8, retries=Retries(max_retries=0))
    assert [record["n"] for record in ran.records] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert [letter["record"]["n"] for letter in ran.letters] == [5]


@pytest.mark.parametrize(
    ("code", "fields", "message"),
    [
        ("def work(r): return 3", {}, "the handler returned a int; return a dict, None, or a list of dicts"),
        ("def work(r): return [3]", {}, "the handler returned a list with a int; each item must be a dict"),
        (
            "def work(rs): return rs[1:]",
            {"batch_size": 2},
            "the handler must return a list of 1 results for 1 records, not 0 results",
        ),
        ("def work(r): return {'x': float('nan')}", {}, "`nan` has no JSON form; return None or a string instead"),
    ],
)
def test_what_is_no_result_is_a_dead_letter(run, code, fields, message) -> None:
    ran = run(code, [{"n": 1}], **fields)
    assert [letter["error"]["message"] for letter in ran.letters] == [message]
    assert ran.counts == (1, 0, 1, 0, 0)
