"""`test --dead`: one record in the image's environment, what it says, and a debugger on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import pytest

from command import BIN, write_records

HANDLER = """\
import os
import sys

import modalbatch

print("imported by", sys.executable)


class Square:
    def __init__(self):
        self.seen = 0

    def __call__(self, record):
        self.seen += 1
        print("working on", record["n"])
        if record["n"] is None:
            return None
        if record["n"] == "crash":
            os._exit(7)
        if record["n"] == "reject":
            raise modalbatch.Reject("not this one")
        return {"square": record["n"] ** 2}
"""


@pytest.fixture
def failed(modalbatch, squares, work):
    """Dead letters of several kinds, by what their record says."""
    spec = work / "squares.yaml"
    spec.write_text(spec.read_text().replace("handlers:square", "{call: handlers:Square, keep: [n]}") + "retries: 0\n")
    (work / "handlers.py").write_text(HANDLER)
    write_records(work / "data/b.jsonl", [{"n": "x"}, {"n": "crash"}, {"n": "reject"}, {"n": [1]}])
    (work / "data/c.jsonl").write_text("no JSON\n")
    assert modalbatch("apply", "squares.yaml").code == 1
    letters = [json.loads(line) for line in modalbatch("cat", "--dead").out.splitlines()]
    return {str(letter.get("record", {}).get("n")): letter["id"] for letter in letters}


def test_a_record_that_still_fails_shows_its_traceback(modalbatch, failed, work):
    before = sorted(path.name for path in (work / "out").rglob("*"))
    done = modalbatch("test", "squares.yaml", "--dead", failed["x"])
    assert (done.code, done.out) == (1, "")
    said = done.err.splitlines()
    assert said[0] == "working on x"
    assert said[1] == "Traceback (most recent call last):"
    assert "handlers.py" in said[2] and "__call__" in said[2]
    message = "unsupported operand type(s) for ** or pow(): 'str' and 'int'"
    assert said[-1] == f"{failed['x']} still fails: TypeError: {message}"
    assert sorted(path.name for path in (work / "out").rglob("*")) == before


@pytest.mark.parametrize(
    ("which", "ends"),
    [
        ("crash", "crash: the slot ended with exit code 7"),
        ("reject", "modalbatch.runtime.handler.Reject: not this one"),
        ("None", "undecodable: JSON is malformed: invalid character (byte 4)"),
    ],
)
def test_every_cause(modalbatch, failed, which, ends):
    done = modalbatch("test", "squares.yaml", "--dead", failed[which], "--json")
    assert (done.code, done.json["ok"], done.json["results"]) == (1, False, [])
    error = done.json["error"]
    assert f"{error['type']}: {error['message']}" == ends


def test_a_mended_handler_gives_its_result(modalbatch, failed, work):
    text = (work / "handlers.py").read_text()
    (work / "handlers.py").write_text(text.replace('record["n"] ** 2', 'len(record["n"])'))
    signature = modalbatch("errors", "--json").json["kinds"][0]["signature"]
    done = modalbatch("test", "squares", "--dead", signature)
    assert (done.code, done.out) == (0, '{"n":"x","square":1}\n'), done.err
    assert done.err.splitlines()[-1] == f"{failed['x']} succeeds now"
    (work / "handlers.py").write_text(text.replace('record["n"] is None', "record[\"n\"] == 'x'"))
    done = modalbatch("test", "squares.yaml", "--dead", failed["x"])
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[-1] == f"{failed['x']} is filtered: the handler gives no record now"


def test_it_runs_where_the_image_says(modalbatch, failed, work):
    """The interpreter of the image's environment, not that of the command."""
    text = (work / "handlers.py").read_text()
    (work / "handlers.py").write_text(text.replace('record["n"] ** 2', "sys.prefix"))
    done = modalbatch("test", "squares.yaml", "--dead", failed["x"])
    prefix = json.loads(done.out)["square"]
    assert "/envs/" in prefix
    (work / "handlers.py").write_text("import no_such_module\n" + text)
    done = modalbatch("test", "squares.yaml", "--dead", failed["x"])
    assert done.code == 1
    assert done.err.splitlines()[-1].endswith("still fails: ModuleNotFoundError: No module named 'no_such_module'")


def test_what_cannot_be_tried(modalbatch, failed, work):
    unknown = modalbatch("test", "squares.yaml", "--dead", "00000000")
    assert (unknown.code, unknown.err) == (
        2,
        "error: there is no dead letter `00000000`, and none of that kind\nhint: modalbatch errors\n",
    )
    blind = modalbatch("test", "squares.yaml", "--dead", failed["x"], "--pdb")
    assert (blind.code, blind.err) == (
        2,
        "error: `--pdb` needs a terminal\nhint: without it the traceback is printed\n",
    )
    sink = modalbatch("test", "out", "--dead", failed["x"])
    assert (sink.code, sink.err) == (
        2,
        f"error: a test needs a spec, not a sink\nhint: modalbatch test SPEC --dead {failed['x']}\n",
    )


def test_the_errors_say_what_to_type(modalbatch, failed, work):
    lines = [line.strip() for line in modalbatch("errors").out.splitlines()]
    shown = [line.removeprefix("again: ") for line in lines if line.startswith("again: ")]
    assert len(shown) == 4
    done = modalbatch(*shown[0].split()[1:])
    assert done.code == 1
    (work / "squares.yaml").rename(work / "moved.yaml")
    assert "again: modalbatch test squares.yaml --dead" in modalbatch("errors", "out").out


def test_a_debugger_on_a_terminal(modalbatch, failed, work):
    ours, theirs = pty.openpty()
    environ = {**os.environ, **modalbatch.environ, "MODALBATCH_HOME": str(modalbatch.home), "TERM": "dumb"}
    command = [str(BIN / "modalbatch"), "test", "squares.yaml", "--dead", failed["x"], "--pdb"]
    with subprocess.Popen(command, cwd=work, env=environ, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        screen = b""

        def until(text: bytes) -> None:
            nonlocal screen
            while text not in screen:
                screen += os.read(ours, 4096)

        until(b"(Pdb) ")
        assert b"TypeError: unsupported operand" in screen
        screen = b""
        os.write(ours, b"p 'seen', self.seen, record['n']\n")
        until(b"('seen', 1, 'x')")
        until(b"(Pdb) ")
        os.write(ours, b"q\n")
        until(b"still fails: TypeError")
        process.wait()
    os.close(ours)
    assert process.returncode == 1
