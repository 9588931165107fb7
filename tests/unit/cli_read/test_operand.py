"""What an operand means, and what is said where it means nothing."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from modalbatch.cli.operand import RunNote, SinkOnly, Target, find_target, load_target, opened, reach, run_notes, shown
from modalbatch.cli.runs import run_state
from modalbatch.cli.status import choose_run
from modalbatch.errors import ModalbatchError, UsageError
from modalbatch.fingerprint import fingerprint, hash_code
from modalbatch.job import Credentials
from sample_sink import Sample


def note(made: Sample, run_id: str, started: float, **other) -> RunNote:
    given = {
        "name": "sample",
        "spec": str(made.spec),
        "sink": f"{made.out}/",
        "engine": {"kind": "local"},
        "started": started,
        **other,
    }
    found = RunNote(run_id=run_id, **given)
    found.write(made.folder / ".modalbatch")
    return found


def test_a_spec(made: Sample) -> None:
    target = find_target("sample.yaml")
    assert isinstance(target, Target)
    assert target == load_target(made.spec)
    assert (target.spec_path, target.spec_dir) == (made.spec, made.folder)
    assert target.state_path == made.folder / ".modalbatch"
    assert target.sink_uri == f"{made.out}/"
    assert target.roots == {"": f"{made.folder}/"}
    assert target.fingerprint == fingerprint(target.job, hash_code(["sample_handlers"], [made.folder]))


def test_a_sink(made: Sample) -> None:
    for operand in ("out", "out/", str(made.out), "./out"):
        found = find_target(operand)
        assert isinstance(found, SinkOnly)
        assert found.sink_uri == f"{made.out}/"
        with opened(found) as sink:
            assert sink.newest_number() == 1


def test_the_last_run_is_the_default(made: Sample) -> None:
    note(made, "r2", 20.0)
    note(made, "r1", 10.0, sink=f"{made.folder}/elsewhere/")
    found = find_target(None)
    assert isinstance(found, Target)
    assert found.note and found.note.run_id == "r2"
    older = find_target("r1")
    assert isinstance(older, SinkOnly)
    assert older.sink_uri == f"{made.folder}/elsewhere/"
    assert find_target("sample") == found


def test_a_run_whose_spec_is_gone(made: Sample) -> None:
    noted = note(made, "r1", 1.0)
    made.spec.unlink()
    found = find_target("r1")
    assert found == SinkOnly(sink_uri=f"{made.out}/", state_path=made.folder / ".modalbatch", note=noted)


def test_from_a_folder_below(made: Sample, monkeypatch) -> None:
    note(made, "r1", 1.0)
    monkeypatch.chdir(made.folder / "data")
    assert find_target(None).sink_uri == f"{made.out}/"


def test_a_job_that_never_ran_here(made: Sample) -> None:
    assert find_target("sample").sink_uri == f"{made.out}/"


def test_an_s3_sink_keeps_the_access_of_its_job(made: Sample) -> None:
    made.spec.write_text(
        made.spec.read_text().replace(
            "uri: out/", "uri: s3://bucket/out, endpoint_url: http://127.0.0.1:1, credentials: {secret: keys}"
        )
    )
    note(made, "r1", 1.0, sink="s3://bucket/out/")
    found = find_target("s3://bucket/out")
    assert isinstance(found, SinkOnly)
    assert (found.endpoint_url, found.credentials) == ("http://127.0.0.1:1", Credentials(secret="keys"))
    assert find_target("s3://bucket/other/") == SinkOnly(
        sink_uri="s3://bucket/other/", state_path=made.folder / ".modalbatch"
    )


def test_secrets_of_this_machine(made: Sample, monkeypatch) -> None:
    state = made.folder / ".modalbatch"
    (state / "secrets").mkdir(parents=True)
    (state / "secrets/keys.env").write_text('READ_ID="from file"\n')
    monkeypatch.setenv("READ_ID", "from environment")
    monkeypatch.setenv("OTHER", "as it was")
    found = SinkOnly(sink_uri="s3://bucket/out/", state_path=state, credentials=Credentials(secret="keys"))
    with reach(found):
        assert os.environ["READ_ID"] == "from file"
    assert os.environ["READ_ID"] == "from environment"
    monkeypatch.delenv("READ_ID")
    with reach(found):
        assert os.environ["READ_ID"] == "from file"
    assert "READ_ID" not in os.environ
    assert os.environ["OTHER"] == "as it was"


def message(operand: str | None) -> tuple[str, str | None]:
    with pytest.raises(ModalbatchError) as caught:
        with opened(find_target(operand)):
            pass
    error = getattr(caught.value, "errors", [caught.value])[0]
    return error.message, error.hint


def test_what_means_nothing(made: Sample) -> None:
    where = "name a spec, a sink (`out/`, `s3://…`), a job or a run"
    assert message(None) == ("no run was started here yet", where)
    note(made, "20261123-070501-a1b2c3", 1.0)
    assert message("sampel") == (
        "`sampel` is no spec, sink, run or job that is known here",
        "did you mean `sample`?",
    )
    assert message("20261123-070501-a1b2c4")[1] == "did you mean `20261123-070501-a1b2c3`?"
    assert message("zzz")[1] == "jobs that ran here: `sample`"
    assert message("sample.yml") == ("there is no such file", "did you mean `sample.yaml`?")
    assert message("data") == (
        "the folder `data` is no sink: it has no `_modalbatch/`",
        "name a spec or a sink",
    )
    assert message(".")[1] == "name the spec: `sample.yaml`"
    assert message("output/") == ("there is no file or folder `output/`", "name a spec, a sink, a job or a run")
    assert message("ftp://bucket/x") == (
        "`ftp://bucket/x` is no sink",
        "sinks are folders, `s3://bucket/prefix/`, `az://…`, `gs://…` and `volume://name/path/`",
    )


def test_a_spec_whose_sink_is_not_there_yet(made: Sample) -> None:
    made.spec.write_text(made.spec.read_text().replace("out/", "new/"))
    assert message("sample.yaml") == ("there is no sink at `new/` yet", "`modalbatch apply` writes it")


def test_notes_are_read_by_other_versions(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    written = RunNote(run_id="r1", name="a", spec="/a.yaml", sink="/out/")
    (tmp_path / "runs/r1.json").write_text(json.dumps({**asdict(written), "later": 1}))
    (tmp_path / "runs/r2.json").write_text("{")
    (tmp_path / "runs/r3.json").write_text("{}")
    assert run_notes(tmp_path) == [written]


def test_paths_are_shown_as_they_would_be_typed(made: Sample) -> None:
    assert shown(f"{made.out}/") == "out/"
    assert shown(f"{made.out}/part-1") == "out/part-1"
    assert shown("s3://bucket/x/") == "s3://bucket/x/"
    assert shown("/nowhere/else/") == "/nowhere/else/"


def test_a_run_whose_driver_is_on_its_way_is_known_by_its_note(made: Sample) -> None:
    note(made, "r9", 30.0, engine={"kind": "modal", "call_id": "fc-1", "environment": "main"})
    found = find_target(None)
    with opened(found) as sink:
        run = choose_run(found, sink, None)
    assert (run["run_id"], run["name"], run["started"], run["end"]) == ("r9", "sample", 30.0, None)
    assert run_state(run, {}) == "open"


def test_a_run_that_was_never_called_has_not_begun(made: Sample) -> None:
    note(made, "r9", 30.0, engine={"kind": "modal"})
    found = find_target(None)
    with opened(found) as sink, pytest.raises(UsageError, match="run r9 has not begun"):
        choose_run(found, sink, None)
