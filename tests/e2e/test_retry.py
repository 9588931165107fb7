"""`retry` as a command: the handler is mended, the dead letters are processed, and every verb agrees."""

from __future__ import annotations

import json
import shutil

import pytest

from command import live_records, write_records

MENDED = '    if "m" in record:\n        return {"n": record["m"], "square": 0}\n'


@pytest.fixture
def failed(modalbatch, squares, work):
    """The job `squares` of three files, two of which have records that its handler does not know."""
    write_records(work / "data/b.jsonl", [{"n": 1}, {"m": 2}, {"n": "x"}])
    write_records(work / "data/c.jsonl", [{"m": 3}])
    with (work / "squares.yaml").open("a") as spec:
        spec.write("retries: 0\n")
    assert modalbatch("apply", "squares.yaml").code == 1
    return squares


def mend(work):
    text = (work / "handlers.py").read_text()
    (work / "handlers.py").write_text(text.replace("(record):\n", "(record):\n" + MENDED))


def test_mended_and_retried_every_verb_agrees(modalbatch, failed, work):
    """promise 3: what was dead is output now, and everything is still counted once."""
    kinds = modalbatch("errors", "--json").json["kinds"]
    assert [(kind["n"], kind["type"]) for kind in kinds] == [(2, "KeyError"), (1, "TypeError")]
    mend(work)
    done = modalbatch("retry", "--error", kinds[0]["signature"])
    assert done.code == 1
    said = done.err.splitlines()
    assert said[1] == "retrying 2 dead letters of 2 splits, for manifest 2"
    assert said[2].split(": ", 1)[1].startswith("2 records in: 2 out, 0 dead, 0 filtered, 0 dropped")
    assert said[3:] == [
        "splits: 2 done, 0 kept, 0 failed",
        "out/: 8 records live, 153 bytes, manifest 2",
        "dead letters: 1 record with error and position in out/_modalbatch/dead/",
        "next: modalbatch errors · modalbatch ls · modalbatch verify",
    ]
    assert sorted(item["square"] for item in live_records(failed)) == [0, 0, 0, 1, 1, 4, 9, 16]
    again = modalbatch("apply", "squares.yaml", "--json")
    assert (again.code, again.json["status"], again.json["live"]["in"]) == (1, "nothing_to_do", 9)
    assert modalbatch("plan", "squares.yaml", "--detailed-exitcode").code == 0
    assert modalbatch("verify", "--strict").code == 0
    assert modalbatch("verify", "squares.yaml", "--source").code == 0
    assert modalbatch("errors", "--json").json["dead"] == 1
    assert len(modalbatch("cat").out.splitlines()) == 8
    assert len(modalbatch("ls").out.splitlines()) == 4
    assert len(list(failed.glob("part-*"))) == 4
    assert [run["state"] for run in modalbatch("runs", "--json").json["runs"]] == ["done", "done"]
    (work / "data/b.jsonl").unlink()
    assert modalbatch("apply", "squares.yaml", "--json").json["status"] == "nothing_to_do"


@pytest.mark.parametrize("operand", ["squares.yaml", "squares", "out", None])
def test_whatever_names_the_job(modalbatch, failed, work, operand):
    mend(work)
    (work / "handlers.py").write_text((work / "handlers.py").read_text().replace("** 2}", "* 2}"))
    done = modalbatch("retry", *filter(None, [operand]), "--json")
    assert (done.code, done.json["retry"]["letters"], done.json["live"]["dead"]) == (0, 3, 0)
    assert (failed / "_SUCCESS").exists()
    assert json.loads((failed / "_SUCCESS").read_text())["manifest"] == 2


def test_on_a_volume(modalbatch, squares, work):
    """Where the last writer of a file wins and others' writes are seen late."""
    spec = work / "squares.yaml"
    spec.write_text(spec.read_text().replace("out/", "volume://squares/out/") + "retries: 0\n")
    write_records(work / "data/b.jsonl", [{"n": 1}, {"m": 2}, {"n": "x"}])
    assert modalbatch("apply", "squares.yaml").code == 1
    mend(work)
    for number, (code, n_letters, n_dead) in enumerate([(1, 2, 1), (1, 1, 1)], 2):
        done = modalbatch("retry", "squares.yaml", "--json")
        assert (done.code, done.json["retry"]["letters"], done.json["live"]["dead"]) == (code, n_letters, n_dead)
        assert done.json["manifest"] == number
        assert modalbatch("verify", "squares.yaml", "--strict").code == 0
    assert modalbatch("apply", "squares.yaml", "--json").json["status"] == "nothing_to_do"
    assert len(modalbatch("cat", "squares.yaml").out.splitlines()) == 7


def test_nothing_to_retry_repeats_the_state(modalbatch, failed, work):
    nothing = modalbatch("retry", "--error", "00000000")
    assert (nothing.code, nothing.err.splitlines()[1:]) == (
        1,
        [
            "nothing to retry",
            "out/: 6 records live, 115 bytes, manifest 1",
            "dead letters: 3 records with error and position in out/_modalbatch/dead/",
        ],
    )
    for name in "bc":
        write_records(work / f"data/{name}.jsonl", [{"n": 1}])
    assert modalbatch("apply", "squares.yaml").code == 0
    nothing = modalbatch("retry", "--json")
    assert (nothing.code, nothing.json["status"], nothing.json["ok"]) == (0, "nothing_to_do", True)
    assert nothing.json["retry"]["is_done"]


def test_what_cannot_be_retried(modalbatch, squares, work):
    spec = work / "squares.yaml"
    unknown = modalbatch("retry", "squares.yaml")
    assert (unknown.code, unknown.err.splitlines()[1:]) == (
        2,
        ["error: nothing is published yet", "hint: `modalbatch apply` publishes"],
    )
    assert modalbatch("apply", "squares.yaml").code == 0
    shutil.copytree(work / "out", work / "copy")
    alone = modalbatch("retry", "copy")
    assert (alone.code, alone.err) == (
        2,
        "error: a retry needs the spec of the sink\nhint: modalbatch retry SPEC\n",
    )
    spec.write_text(spec.read_text().replace("name: squares", "name: other"))
    other = modalbatch("retry", "squares.yaml")
    assert (other.code, other.err.splitlines()[1]) == (2, "error: the sink `out/` belongs to job `squares`")
    assert modalbatch("retry", "squares.yaml", "--adopt").err.splitlines()[1] == "nothing to retry"


def test_a_changed_source_is_nobodys_business(modalbatch, failed, work):
    mend(work)
    spec = work / "squares.yaml"
    write_records(work / "elsewhere/z.jsonl", [{"n": 1}])
    spec.write_text(spec.read_text().replace("data/*.jsonl", "elsewhere/*.jsonl"))
    done = modalbatch("retry", "squares.yaml", "--json")
    assert done.code == 1, done.err
    assert (done.code, done.json["counts"]["in"], done.json["counts"]["out"]) == (1, 3, 2)
