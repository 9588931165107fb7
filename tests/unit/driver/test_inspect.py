"""`inspect`: the verbs that read, worked out next to the data, and the reasons of a plan."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness import module_path
from modalbatch.driver.inspect import inspect
from modalbatch.driver.reason import changed, leaves
from modalbatch.driver.verify import verify
from modalbatch.fingerprint import fingerprint, hash_code
from modalbatch.job import Handler, Job, Sink, Source
from sample_sink import Sample, filled


def ask(made: Sample, verb: str, **options) -> dict:
    request = {"verb": verb, "run_id": "", "roots": made.roots, **options}
    with module_path(made.folder):
        return json.loads(inspect(made.job.to_json(), json.dumps(request)))


def groups(facts: dict) -> dict[str, tuple[int, int, list[str]]]:
    found = facts["groups"]
    return {
        name: (group["splits"], group["inputs"], group["examples"])
        for name, group in found.items()
        if group["splits"] or group["inputs"]
    }


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Sample:
    return filled(tmp_path_factory.mktemp("once"), bad=2)


@pytest.fixture
def made(once: Sample, tmp_path: Path) -> Sample:
    """A copy of its own, in a folder of another name."""
    copy = Sample(tmp_path / "copy")
    shutil.rmtree(copy.folder)
    shutil.copytree(once.folder, copy.folder)
    return copy


def test_nothing_to_do(made: Sample) -> None:
    facts = ask(made, "plan")
    assert facts["is_done"]
    assert facts["todo"] == {"splits": 0, "bytes": 0}
    assert (facts["inputs"], facts["manifest"], facts["bytes"]) == (
        4,
        1,
        sum(path.stat().st_size for path in (made.folder / "data").iterdir()),
    )
    assert list(groups(facts)) == ["kept"]
    with module_path(made.folder):
        assert facts["fingerprint"] == fingerprint(made.job, hash_code(made.job.modules))


def test_a_new_sink(tmp_path: Path) -> None:
    made = Sample(tmp_path).write("a.jsonl", 3)
    facts = ask(made, "plan")
    size = (tmp_path / "data/a.jsonl").stat().st_size
    assert (facts["manifest"], facts["is_done"], facts["todo"]) == (0, False, {"splits": 1, "bytes": size})
    assert groups(facts) == {"new": (1, 1, ["data/a.jsonl"])}
    assert not made.out.exists()


def test_every_reason(made: Sample) -> None:
    kept = groups(ask(made, "plan"))["kept"][0]
    made.write("e.jsonl", 2)
    made.write("a.jsonl", 1)
    (made.folder / "data/c.jsonl").unlink()
    facts = ask(made, "plan")
    found = groups(facts)
    assert found["new"] == (1, 1, ["data/e.jsonl"])
    assert found["input"] == (1, 1, ["data/a.jsonl"])
    assert found["removed"] == (0, 1, ["data/c.jsonl"])
    assert "code" not in found
    assert 0 < found["kept"][0] < kept
    assert not facts["is_done"]


def test_output_that_is_gone(made: Sample) -> None:
    part = ask(made, "ls")["parts"][0]
    Path(part["uri"]).unlink()
    found = groups(ask(made, "plan"))
    assert found["lost"][0] == len(part["inputs"])


def test_small_inputs_are_done_again_with_one_that_changed(tmp_path: Path) -> None:
    made = Sample(tmp_path)
    for number in range(40):
        made.write(f"{number:02}.jsonl", 2, start=number)
    made.run()
    made.write("03.jsonl", 5)
    found = groups(ask(made, "plan"))
    assert found["input"] == (1, 1, ["data/03.jsonl"])
    assert set(found) <= {"input", "packed", "kept"}
    assert sum(group[0] for group in found.values()) == 40
    assert len(found["kept"][2]) == 5


def test_why_the_fingerprint_is_another(made: Sample) -> None:
    before = ask(made, "plan")["groups"]["kept"]["splits"]
    made.change_handler()
    made.job = replace(made.job, env={"MODE": "secret-value"}, handler=replace(made.job.handler, keep=("id",)))
    facts = ask(made, "plan")
    assert facts["changed_keys"] == ["sample_handlers.py", "env.MODE", "handler.keep"]
    assert groups(facts)["code"][0] == before
    kept = ask(made, "plan", keep=True)
    assert list(groups(kept)) == ["kept"]
    assert not kept["is_done"]  # the next manifest accepts one more fingerprint


def test_leaves_hold_no_values() -> None:
    job = Job(
        name="x",
        handler=Handler(call="nowhere_at_all:f", args={"a": {"b": 1}}),
        source=Source(uris=("a",)),
        sink=Sink(uri="out/"),
        env={"TOKEN": "hunter2"},
    )
    found = leaves(job, [])
    assert sorted(found) == ["env.TOKEN", "handler.args.a.b", "handler.call"]
    assert "hunter2" not in json.dumps(found)
    assert changed(found, leaves(replace(job, env={}), [])) == ["env.TOKEN"]
    versioned = replace(job, handler=replace(job.handler, version="3"))
    assert sorted(leaves(versioned, [])) == ["env.TOKEN", "handler.args.a.b", "handler.call", "version"]


def test_the_other_verbs(made: Sample) -> None:
    parts = ask(made, "ls")["parts"]
    assert sorted(part["uri"] for part in parts) == sorted(map(str, made.out.glob("part-*")))
    assert sum(part["records"] for part in parts) == made.manifest().counts.out
    assert parts[0]["inputs"][0]["uri"].startswith("data/")
    assert ask(made, "verify") == verify(made.sink()).to_json()
    assert ask(made, "verify", source=True)["ok"]
    (run,) = ask(made, "runs")["runs"]
    assert (run["run_id"], run["end"]["exit_code"]) == ("run-1", 1)


def test_errors_are_data(made: Sample) -> None:
    made.job = replace(made.job, name="other")
    assert ask(made, "plan")["error"] == {
        "message": "the sink `out/` belongs to job `sample`",
        "path": None,
        "line": None,
        "column": None,
        "hint": "give this job a sink of its own, or take this one over with --adopt",
        "exit_code": 2,
    }
    assert ask(made, "plan", adopt=True)["name"] == "other"
    assert ask(made, "dance")["error"]["message"] == "KeyError: 'dance'"
    assert ask(made, "dance")["error"]["exit_code"] == 3
