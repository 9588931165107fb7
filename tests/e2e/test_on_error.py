"""`on_error` and results of earlier code, through the command: exit codes, what is published, what runs again."""

from __future__ import annotations

import pytest

from command import live_records, write_records


@pytest.fixture
def spec(squares, work):
    """`spec(text)` adds to the spec of a job of which one record in twelve is bad."""
    write_records(work / "data/c.jsonl", [{"n": 1}, {"m": 2}])
    path = work / "squares.yaml"
    plain = path.read_text() + "retries: 0\n"

    def add(text: str) -> None:
        path.write_text(plain + text)

    add("")
    return add


def test_a_fence_publishes_nothing_and_a_higher_one_continues(modalbatch, spec, squares):
    spec("on_error: {max_failed: 0}\n")
    done = modalbatch("apply", "squares.yaml")
    assert done.code == 5
    assert done.err.splitlines()[-2:] == [
        f"error: 1 of {done.err.split('error: 1 of ')[1].split()[0]} records failed, more than on_error.max_failed: 0",
        "hint: mend the handler, or raise on_error.max_failed; finished splits stay done",
    ]
    assert list(squares.glob("_modalbatch/manifest-*")) == []
    assert not (squares / "_SUCCESS").exists()
    finished = len(list(squares.glob("_modalbatch/receipts/*")))
    spec("on_error: {max_failed: 10%}\n")
    again = modalbatch("apply", "squares.yaml", "--json")
    assert (again.code, again.json["splits"]) == (0, {"done": 3 - finished, "kept": finished, "failed": 0})
    assert (again.json["live"]["in"], again.json["live"]["dead"]) == (12, 1)
    assert (squares / "_SUCCESS").exists()
    # The same sink under a lower limit is no success, and says so again and again.
    for limit, code in (("0", 5), ("8%", 5), ("9%", 0)):
        spec(f"on_error: {{max_failed: {limit}}}\n")
        quiet = modalbatch("apply", "squares.yaml", "--json")
        assert (quiet.code, quiet.json["status"]) == (code, "nothing_to_do")
        assert (squares / "_SUCCESS").exists() == (code == 0)
        assert modalbatch("verify").code == 0


def test_drop_and_fail(modalbatch, spec, squares):
    spec("on_error: fail\n")
    done = modalbatch("apply", "squares.yaml")
    assert done.code == 5
    assert done.err.splitlines()[-2:] == [
        "error: data/c.jsonl: record 1: KeyError: 'n'",
        "hint: `on_error: fail` stops at the first failed record; `on_error: dead_letter` sets it aside",
    ]
    assert list(squares.glob("_modalbatch/manifest-*")) == []
    spec("on_error: drop\n")
    done = modalbatch("apply", "squares.yaml", "--json")
    assert (done.code, done.json["live"]["dropped"], done.json["live"]["dead"]) == (0, 1, 0)
    assert modalbatch("errors").err == "no dead letters · manifest 1\n"


def test_nothing_succeeded(modalbatch, spec, work, squares):
    for name in "ab":
        write_records(work / f"data/{name}.jsonl", [{"m": 1}] * 3)
    write_records(work / "data/c.jsonl", [{"m": 1}])
    spec("on_error: {max_failed: 100%}\n")
    done = modalbatch("apply", "squares.yaml")
    assert (done.code, done.err.splitlines()[-1]) == (1, "error: nothing succeeded: all 7 records failed")
    assert not (squares / "_SUCCESS").exists()
    assert modalbatch("apply", "squares.yaml", "--json").json["status"] == "nothing_to_do"


def test_what_changed_code_asks_for_without_a_terminal(modalbatch, squares, work):
    """Redo is the default of the local engine and of `--yes`; `--keep` accepts the results and the new code alike."""
    assert modalbatch("apply", "squares.yaml").code == 0
    handler, text = work / "handlers.py", (work / "handlers.py").read_text()
    for number, options in enumerate(([], ["--yes"], ["--redo"]), 1):
        handler.write_text(text.replace("** 2", f"** 2 + {number}"))
        done = modalbatch("apply", "squares.yaml", *options, "--json")
        assert (done.code, done.json["splits"]["done"]) == (0, 2), options
        assert {item["square"] - item["n"] ** 2 for item in live_records(squares)} == {number}
    # Kept: only the input that is new sees the new code.
    write_records(work / "data/c.jsonl", [{"n": 7}])
    handler.write_text(text.replace("** 2", "** 2 + 9"))
    kept = modalbatch("apply", "squares.yaml", "--keep", "--json")
    assert (kept.code, kept.json["splits"]) == (0, {"done": 1, "kept": 2, "failed": 0})
    assert {item["square"] - item["n"] ** 2 for item in live_records(squares)} == {3, 9}
    for accepted in ("** 2 + 9", "** 2 + 3"):
        handler.write_text(text.replace("** 2", accepted))
        quiet = modalbatch("apply", "squares.yaml", "--json")
        assert (quiet.code, quiet.json["status"]) == (0, "nothing_to_do")
    assert modalbatch("plan", "squares.yaml", "--detailed-exitcode").code == 0
    # What was given up is not accepted any more.
    handler.write_text(text.replace("** 2", "** 2 + 1"))
    assert modalbatch("plan", "squares.yaml", "--detailed-exitcode").code == 4


def test_a_version_stands_for_code_and_image(modalbatch, squares, work):
    spec, handler = work / "squares.yaml", work / "handlers.py"
    spec.write_text(spec.read_text().replace("handlers:square", '{call: handlers:square, version: "1"}'))
    assert modalbatch("apply", "squares.yaml").code == 0
    handler.write_text(handler.read_text().replace("** 2", "** 3"))
    spec.write_text(spec.read_text().replace("image: {", "image: {env: {A: b}, "))
    quiet = modalbatch("apply", "squares.yaml", "--json")
    assert (quiet.code, quiet.json["status"]) == (0, "nothing_to_do")
    write_records(work / "data/c.jsonl", [{"n": 2}])
    more = modalbatch("apply", "squares.yaml", "--json")
    assert (more.code, more.json["splits"]["done"]) == (0, 1)
    spec.write_text(spec.read_text().replace('version: "1"', 'version: "2"'))
    again = modalbatch("apply", "squares.yaml", "--json")
    assert (again.code, again.json["splits"]["done"]) == (0, 3)
    assert {item["n"]: item["square"] for item in live_records(squares)}[4] == 64
