"""`plan`, `ls`, `cat`, `verify`, `runs`: what they print and how they end."""

from __future__ import annotations

import fcntl
import gzip
import json
import os

from sample_sink import Sample

PLACE = f"local · {min(100, len(os.sched_getaffinity(0)))} containers · out/\n"


def test_plan_with_nothing_to_do(made: Sample, modalbatch) -> None:
    said = modalbatch("plan", "sample.yaml", "--detailed-exitcode")
    assert said.code == 0
    assert said.err == PLACE
    fingerprint = json.loads(modalbatch("plan", "sample.yaml", "--json").out)["fingerprint"]
    assert said.out == (
        f"sample: 4 inputs, 9 splits, 5.3 KiB · fingerprint {fingerprint[:8]} · manifest 1\n"
        "  = kept: 9 splits, 5.3 KiB\n"
        "nothing to do: manifest 1 says all of it\n"
    )


def test_plan_with_work_of_every_kind(made: Sample, modalbatch) -> None:
    made.write("e.jsonl", 2)
    made.write("a.jsonl", 3)
    (made.folder / "data/b.jsonl").unlink()
    said = modalbatch("plan", "sample.yaml", "--detailed-exitcode")
    assert said.code == 4
    assert said.out.splitlines()[1:-1] == [
        "  + new: 1 split, 36 bytes: data/e.jsonl",
        "  ~ changed: 1 split, 54 bytes: input changed (data/a.jsonl)",
        "  = kept: 2 splits, 90 bytes",
        "  - 1 removed: data/b.jsonl; output kept (source.on_removed: keep)",
    ]
    assert said.out.splitlines()[-1] == "apply would process 2 splits, 90 bytes, and publish manifest 2"


def test_plan_after_a_change_of_the_handler(made: Sample, modalbatch) -> None:
    made.change_handler()
    said = modalbatch("plan", "sample.yaml")
    assert said.out.splitlines()[1:] == [
        "  ~ changed: 9 splits, 5.3 KiB: handler changed (sample_handlers.py)",
        "apply would process 9 splits, 5.3 KiB, and publish manifest 2",
    ]
    kept = modalbatch("plan", "sample.yaml", "--keep")
    assert kept.out.splitlines()[1:] == [
        "  = kept: 9 splits, 5.3 KiB",
        "apply would publish manifest 2; nothing is to be processed",
    ]


def test_plan_of_a_new_sink(made: Sample, modalbatch) -> None:
    made.spec.write_text(made.spec.read_text().replace("out/", "new/"))
    said = modalbatch("plan", "sample.yaml", "--json", "--detailed-exitcode")
    facts = json.loads(said.out)
    assert said.code == 4
    assert (facts["ok"], facts["engine"], facts["sink"], facts["manifest"]) == (True, "local", "new/", 0)
    assert not (made.folder / "new").exists()


def test_plan_refuses(made: Sample, modalbatch) -> None:
    assert modalbatch("plan", "sample.yaml", "--keep", "--redo")[::2] == (
        2,
        "error: `--keep` and `--redo` exclude each other\n",
    )
    assert modalbatch("plan", "out")[::2] == (
        2,
        "error: a plan needs a spec, not a sink\nhint: modalbatch plan SPEC\n",
    )
    (made.folder / "sample.yaml").write_text(made.spec.read_text().replace("name: sample", "name: another"))
    assert modalbatch("plan", "sample.yaml").err == (
        "error: the sink `out/` belongs to job `sample`\n"
        "hint: give this job a sink of its own, or take this one over with --adopt\n"
    )


def test_ls(made: Sample, modalbatch) -> None:
    said = modalbatch("ls", "out")
    manifest = made.manifest()
    paths = said.out.splitlines()
    assert sorted(paths) == sorted(str(path.relative_to(made.folder)) for path in made.out.glob("part-*"))
    size = f"{manifest.part_bytes / 1024:.1f} KiB"
    assert said.err == f"{len(paths)} parts, {manifest.counts.out} records, {size} · manifest 1\n"
    listed = json.loads(modalbatch("ls", "sample.yaml", "--json").out)
    assert [part["uri"] for part in listed["parts"]] == [str(made.folder / path) for path in paths]
    assert sum(part["records"] for part in listed["parts"]) == manifest.counts.out
    long = modalbatch("ls", "-l", "out").out
    first = listed["parts"][0]
    assert long.splitlines()[0].split()[:3] == [str(first["records"]), str(first["bytes"]), paths[0]]


def test_ls_follows_the_manifest_and_nothing_else(made: Sample, modalbatch) -> None:
    before = modalbatch("ls", "out").out
    (made.out / "part-000000000000000000000000-00000000.jsonl.gz").write_bytes(b"")
    assert modalbatch("ls", "out").out == before


def records(made: Sample) -> list[bytes]:
    parts = sorted(made.out.glob("part-*"))
    return sorted(line for path in parts for line in gzip.decompress(path.read_bytes()).splitlines())


def test_cat(made: Sample, modalbatch) -> None:
    said = modalbatch("cat", "out")
    assert said.err == ""
    assert sorted(said.out.encode().splitlines()) == records(made)
    assert modalbatch("cat", "out", "-n", "3").out == "".join(said.out.splitlines(keepends=True)[:3])
    assert modalbatch("cat", "out", "-n", "0").out == ""
    assert modalbatch("cat", "out", "-n", "100000").out == said.out
    letters = [json.loads(line) for line in modalbatch("cat", "out", "--dead").out.splitlines()]
    assert [letter["cause"] for letter in letters] == ["rejected", "rejected"]
    assert modalbatch("cat", "out", "-n", "-1")[::2] == (2, "error: `-n` must be at least 0\n")


def test_cat_of_a_part_that_is_gone(made: Sample, modalbatch) -> None:
    part = sorted(made.out.glob("part-*"))[0]
    part.unlink()
    said = modalbatch("cat", "out")
    assert said[::2] == (
        2,
        f"error: `{part.name}` of the manifest is missing\nhint: `modalbatch verify` names all that is\n",
    )


def test_verify(made: Sample, modalbatch) -> None:
    said = modalbatch("verify", "out")
    manifest = made.manifest()
    n_parts = len(list(made.out.glob("part-*")))
    size = f"{manifest.part_bytes / 1024:.1f} KiB"
    assert said == (
        0,
        "",
        f"whole: manifest 1, {manifest.n_receipts} splits, {n_parts} parts, {size}; every byte read\n"
        "255 records in: 252 out, 2 dead, 1 filtered, 0 dropped\n"
        "no `_SUCCESS`: dead letters remain, or a run has not ended\n",
    )
    assert modalbatch("verify", "sample.yaml", "--source").code == 0
    assert json.loads(modalbatch("verify", "out", "--json").out)["ok"] is True


def test_verify_names_what_is_wrong(made: Sample, modalbatch) -> None:
    part = sorted(made.out.glob("part-*"))[0]
    part.write_bytes(part.read_bytes()[:-1])
    said = modalbatch("verify", "out")
    n_bytes = part.stat().st_size
    assert said == (
        1,
        f"altered: {part.name}: it has {n_bytes} bytes, its receipt says {n_bytes + 1}\n",
        "not whole: 1 problem\nhint: `modalbatch plan` says what apply would do again\n",
    )
    assert json.loads(modalbatch("verify", "out", "--json").out)["ok"] is False


def test_verify_and_extra_objects(made: Sample, modalbatch) -> None:
    (made.out / "part-0.jsonl").write_text("{}\n")
    (made.out / "notes.txt").write_text("mine")
    said = modalbatch("verify", "out")
    assert said.code == 0
    assert said.out == "foreign: part-0.jsonl: it is named like a part, but not by modalbatch\n"
    assert modalbatch("verify", "out", "--strict").code == 1


def test_verify_compares_with_the_source_of_a_spec_only(made: Sample, modalbatch) -> None:
    assert modalbatch("verify", "out", "--source")[::2] == (
        2,
        "error: `--source` needs a spec, not a sink\nhint: modalbatch verify SPEC --source\n",
    )
    made.write("e.jsonl", 1)
    said = modalbatch("verify", "sample.yaml", "--source")
    assert said[:2] == (1, "unprocessed: data/e.jsonl: nothing of it was processed: 0-18\n")


def test_runs(made: Sample, modalbatch) -> None:
    made.write("a.jsonl", 2)
    made.run("second", user="ada@host", engine={"kind": "local", "id": "e1", "home": "h1"})
    (made.out / "_modalbatch/runs/second/end.json").unlink()
    said = modalbatch("runs", "out")
    assert said.err.split() == ["run", "started", "user", "engine", "state", "in", "out", "dead"]
    rows = [line.split() for line in said.out.splitlines()]
    assert [row[0] for row in rows] == ["run-1", "second"]
    assert rows[0][3:] == ["-", "-", "done", "255", "252", "2"]
    assert rows[1][3:] == ["ada@host", "local", "open", "-", "-", "-"]
    state = made.folder / ".modalbatch"
    state.mkdir(exist_ok=True)
    (state / "home_id").write_text("h1\n")
    (state / "engine.lock").touch()
    runs = json.loads(modalbatch("runs", "out", "--json").out)["runs"]
    assert [run["state"] for run in runs] == ["done", "died"]


def test_a_run_of_an_engine_that_lives(made: Sample, modalbatch) -> None:
    made.write("a.jsonl", 2)
    made.run("second", engine={"kind": "local", "id": "e1", "home": "h1"})
    (made.out / "_modalbatch/runs/second/end.json").unlink()
    state = made.folder / ".modalbatch"
    state.mkdir(exist_ok=True)
    (state / "home_id").write_text("h1\n")
    (state / "engine.json").write_text('{"engine_id": "e1"}')
    with (state / "engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "running" in modalbatch("runs", "out").out
