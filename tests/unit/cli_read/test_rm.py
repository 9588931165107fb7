"""`rm` deletes exactly our objects."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from modalbatch.driver.inventory import KINDS, delete_all, kind_of, take_inventory
from sample_sink import Sample


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


FOREIGN = {
    "notes.txt",
    "part-0.jsonl",
    "part-000000000000000000000000-0000000g.jsonl",
    "sub/part-000000000000000000000000-00000000.jsonl",
    "_modalbatch/mine.json",
    "_modalbatch/receipts/README",
    "_modalbatch/manifest-1.json",
    "_modalbatch/runs/x/notes.md",
    "_modalbatch/owner.json.bak",
}


def test_rm_without_a_terminal_needs_yes(made: Sample, modalbatch) -> None:
    before = files(made.out)
    said = modalbatch("rm", "out")
    assert said.code == 2
    n_bytes = sum((made.out / name).stat().st_size for name in before)
    n_parts = len(list(made.out.glob("part-*")))
    assert said.err == (
        f"out/: {len(before)} objects, {n_bytes / 1024:.1f} KiB, {n_parts} parts among them\n"
        "error: nothing was deleted: this needs `--yes` without a terminal\n"
        "hint: add --yes\n"
    )
    assert files(made.out) == before


def test_rm_deletes_ours_and_nothing_else(made: Sample, modalbatch) -> None:
    ours = files(made.out)
    for name in FOREIGN:
        (made.out / name).parent.mkdir(parents=True, exist_ok=True)
        (made.out / name).write_text("mine")
    (made.out / "_modalbatch/tmp").mkdir(exist_ok=True)
    (made.out / "_modalbatch/tmp/left.new").write_text("half")
    said = modalbatch("rm", "sample.yaml", "--yes", "--json")
    assert said.code == 0
    facts = json.loads(said.out)
    assert (facts["deleted"], facts["foreign"]) == (len(ours), len(FOREIGN))
    assert files(made.out) == FOREIGN
    assert files(made.folder / "data") == {"a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"}


def test_rm_leaves_an_empty_folder(made: Sample, modalbatch) -> None:
    assert modalbatch("rm", "out", "-y").code == 0
    assert list(made.out.iterdir()) == []
    assert modalbatch("rm", "sample.yaml", "-y")[::2] == (
        2,
        "error: there is no sink at `out/` yet\nhint: `modalbatch apply` writes it\n",
    )


def test_somebody_elses_success_stays(made: Sample) -> None:
    (made.out / "_SUCCESS").write_text("")
    assert kind_of(made.sink(), "_SUCCESS") is None
    (made.out / "_SUCCESS").write_text('{"manifest":1,"sha256":"00"}')
    assert kind_of(made.sink(), "_SUCCESS") == "success"


def test_every_file_of_a_run_has_a_kind(made: Sample) -> None:
    made.allow(2)
    made.run()
    inventory = take_inventory(made.sink())
    assert inventory.n_foreign == 0
    assert set(inventory.n_objects) == set(KINDS) - {"probes", "decisions"}
    assert inventory.n_ours == len(files(made.out)) == delete_all(made.sink())


def test_a_run_that_has_not_ended_is_told(made: Sample, modalbatch) -> None:
    (made.out / "_modalbatch/runs/run-1/end.json").unlink()
    assert "the run `run-1` has not ended: if it still runs, cancel it first\n" in modalbatch("rm", "out").err


def test_a_run_that_goes_on_is_refused(made: Sample, modalbatch) -> None:
    made.write("a.jsonl", 2)
    made.run("second", engine={"kind": "local", "id": "e1", "home": "h1"})
    (made.out / "_modalbatch/runs/second/end.json").unlink()
    state = made.folder / ".modalbatch"
    state.mkdir(exist_ok=True)
    (state / "home_id").write_text("h1\n")
    (state / "engine.json").write_text('{"engine_id": "e1"}')
    before = files(made.out)
    with (state / "engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert modalbatch("rm", "out", "--yes") == (
            75,
            "",
            "error: the run `second` is active; nothing was deleted\nhint: modalbatch cancel second\n",
        )
    assert files(made.out) == before
    assert modalbatch("rm", "out", "--yes").code == 0


def test_orphans(made: Sample, modalbatch) -> None:
    live = files(made.out)
    old = made.out / "part-000000000000000000000000-00000000.jsonl.gz"
    young = made.out / "part-000000000000000000000000-00000001.jsonl.gz"
    for path in (old, young):
        path.write_bytes(b"123")
    os.utime(old, (1, 1))
    said = modalbatch("rm", "sample.yaml", "--orphans")
    assert said == (
        2,
        "",
        "out/: 1 orphan, 3 bytes\nerror: nothing was deleted: this needs `--yes` without a terminal\nhint: add --yes\n",
    )
    assert modalbatch("rm", "out", "--orphans", "--yes").err == "out/: 1 orphan, 3 bytes\ndeleted 1 object\n"
    assert files(made.out) == live | {young.name}
    assert modalbatch("rm", "out", "--orphans", "--yes").err == "out/: no orphans older than 2 timeouts\n"


def test_orphans_are_what_the_manifest_retired(made: Sample, modalbatch) -> None:
    before = files(made.out)
    receipts = {name: (made.out / name).read_bytes() for name in before if "receipts/" in name or "/" not in name}
    made.write("a.jsonl", 1)
    made.run()
    for name, data in receipts.items():
        (made.out / name).write_bytes(data)
    gone = {name for name in receipts if name.startswith("_modalbatch/")} & set(made.manifest().retired)
    assert gone
    said = json.loads(modalbatch("rm", "out", "--orphans", "--yes", "--json").out)
    assert said["deleted"] >= 2 * len(gone)
    assert modalbatch("verify", "out", "--strict").code == 0
