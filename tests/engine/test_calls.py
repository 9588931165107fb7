"""Calls of every kind, from the client and from inside a container."""

from __future__ import annotations

import re
import sys

import pytest


def test_every_way_to_call(bench):
    """`remote`, `map`, `starmap`, `spawn`, `get`, `gather`, `from_id`, async, `concurrent`, classes with parameters,
    enter and exit, calls from containers, large arguments, tags.
    """
    found = bench.run("calls.py::main", "--number", "6", "--word", "hi")
    assert found["remote"] == 37
    assert found["word"] == "hi"
    assert found["map"] == [0, 1, 4, 9, 16]
    assert found["unordered"] == 119 * 119
    assert found["starmap"] == [2, 6]
    assert found["later"] == [2, 3]
    assert found["together"] == 1
    assert found["gather"] == [0, 1, 4]
    assert found["from_id"] == 4
    assert found["class"] == [["enter 1", "work p"], ["enter 1", "work p", "work q"], ["enter 2", "work r"]]
    assert found["driver"]["failed"] == 1
    assert found["driver"]["total"] == sum(range(40)) - 3
    assert found["driver"]["ahead"] < 7
    assert found["big"] == 3_000_000
    assert found["generator"] == [0, 1]
    assert found["tags"] == {"team": "search"}
    assert found["new_tags"] == {"team": "ads"}
    assert "exit 1 after 3" in found["output"]
    assert "exit 2 after 2" in found["output"]


def test_nothing_of_the_laptop_enters_a_container(bench, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "private")
    found = bench.run("calls.py::where")
    assert found["user_packages"] == []
    assert len(found["path"]) == 1
    assert found["remote"]
    assert found["engine"] == bench.engine.engine_id
    allowed = {"HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "TZ", "PYTHONPATH", "PYTHONUNBUFFERED", "LC_CTYPE", "PWD"}
    assert [name for name in found["environ"] if not name.startswith("MODAL") and name not in allowed] == []


def test_a_container_has_its_own_process_ids(bench):
    found = bench.run("calls.py::where")
    assert found["pid"] < 10
    assert len(found["processes"]) < 10
    assert "no namespaces" not in found["output"]


def test_app_run_from_python(bench):
    assert "49\n" in bench.python("import calls\nwith calls.app.run():\n    print(calls.square.remote(7))")


_UNSUPPORTED = """
import modal

app = modal.App("beyond")
modal.App.lookup("x", create_if_missing=True)
bucket = modal.CloudBucketMount("b")


def told(act):
    try:
        act()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")


@app.function(volumes={"/b": bucket}, serialized=True)
def reads():
    pass


told(lambda: modal.Sandbox.create("ls", app=modal.App.lookup("x")))
told(lambda: modal.NetworkFileSystem.from_name("n").hydrate())
told(lambda: app.run().__enter__())
"""


def test_what_is_not_there_says_what_to_do(bench):
    output = bench.python(_UNSUPPORTED)
    assert re.search(
        r"Error: modal.Sandbox \(Sandbox\w+\) is not supported by modalbatch's local engine\n"
        "hint: run it on Modal; code can tell where it is: MODALBATCH_LOCAL_ENGINE is set on the local engine only\n",
        output,
    ), output
    assert (
        "modal.NetworkFileSystem (SharedVolumeGetOrCreate) is not supported by modalbatch's local engine\n"
        "hint: use a modal.Volume\n"
    ) in output
    assert (
        "a CloudBucketMount (`reads`) is not supported by modalbatch's local engine\n"
        "hint: a job of modalbatch reads and writes buckets directly: `source: s3://…`, `sink: s3://…`;"
        " other code can with boto3\n"
    ) in output


def test_wrong_token_is_refused(bench):
    source = (
        "import os; os.environ['MODAL_TOKEN_SECRET'] = 'as-guess'\nimport modal\nmodal.Dict.from_name('x').hydrate()"
    )
    assert "its token differs" in bench.python(source, 1)


@pytest.mark.parametrize("entry", ["main"])
def test_missing_argument_is_the_clients_own_error(bench, entry):
    assert "--number" in bench.modal("run", f"calls.py::{entry}", code=2)


@pytest.mark.parametrize(("expected", "code"), [(16, 0), (17, 1)])
def test_tests_of_an_app_run_on_the_engine(bench, tmp_path, expected, code):
    (tmp_path / "test_app.py").write_text(
        "import calls\n\ndef test_square():\n"
        f"    with calls.app.run():\n        assert calls.square.remote(4) == {expected}\n"
    )
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path))
    output = bench.command(sys.executable, *words, code=code)
    assert ("1 failed" if code else "1 passed") in output
