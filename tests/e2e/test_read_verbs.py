"""The verbs that read a sink, as commands, on what `apply` left: a local folder, a Modal Volume, a bucket."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from command import BIN, live_records, write_records
from servers import s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture
def applied(modalbatch, squares):
    """The job `squares`, done once."""
    assert modalbatch("apply", "squares.yaml").code == 0
    return squares


def test_the_last_run_is_what_is_meant(modalbatch, applied, work):
    listed = modalbatch("ls")
    assert sorted(listed.out.split()) == sorted(f"out/{path.name}" for path in applied.glob("part-*"))
    assert listed.err.endswith("10 records, 192 bytes · manifest 1\n")
    printed = [json.loads(line) for line in modalbatch("cat").out.splitlines()]
    assert sorted(printed, key=json.dumps) == sorted(live_records(applied), key=json.dumps)
    proof = modalbatch("verify", "--json")
    assert (proof.code, proof.json["ok"], proof.json["complete"], proof.json["problems"]) == (0, True, True, [])
    (run,) = modalbatch("runs", "--json").json["runs"]
    assert (run["state"], run["end"]["exit_code"], run["engine"]["kind"]) == ("done", 0, "local")
    for operand in (run["run_id"], "squares", "squares.yaml", "out"):
        assert modalbatch("ls", operand).out == listed.out


def test_paths_can_be_piped(modalbatch, applied, work):
    paths = modalbatch("ls").out.split()
    direct = subprocess.run(["cat", *paths], cwd=work, capture_output=True, check=True).stdout.decode()
    assert direct == modalbatch("cat").out


def test_a_reader_that_goes_away_is_no_error(modalbatch, work, squares):
    write_records(work / "data/large.jsonl", [{"n": n} for n in range(200_000)])
    assert modalbatch("apply", "squares.yaml").code == 0
    environ = {**os.environ, "MODALBATCH_HOME": str(modalbatch.home)}
    command = [str(BIN / "modalbatch"), "cat", "out"]
    with subprocess.Popen(command, cwd=work, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b'{"n":')
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_plan_and_apply_agree(modalbatch, applied, work):
    assert modalbatch("plan", "squares.yaml", "--detailed-exitcode").code == 0
    write_records(work / "data/c.jsonl", [{"n": 1}])
    (work / "data/a.jsonl").unlink()
    (work / "handlers.py").write_text((work / "handlers.py").read_text().replace("** 2", "* record['n']"))
    plan = modalbatch("plan", "squares.yaml", "--detailed-exitcode")
    assert plan.code == 4
    applying = modalbatch("apply", "squares.yaml", "--redo")
    shown = [line for line in (plan.err + plan.out).splitlines() if not line.startswith("apply would")]
    assert applying.err.splitlines()[: len(shown)] == shown
    assert modalbatch("plan", "squares.yaml", "--detailed-exitcode").code == 0
    assert modalbatch("verify", "--strict").code == 0


def test_what_is_gone_is_named_and_made_again(modalbatch, applied):
    part = sorted(applied.glob("part-*"))[0]
    part.unlink()
    found = modalbatch("verify")
    assert found.code == 1
    assert found.out.startswith(f"missing: {part.name}: ")
    assert "  ~ lost: " in modalbatch("plan", "squares.yaml").out
    assert modalbatch("apply", "squares.yaml").code == 0
    assert modalbatch("verify", "--strict").code == 0


def test_rm_and_from_the_start(modalbatch, applied):
    (applied / "mine.txt").write_text("x")
    assert modalbatch("rm").code == 2
    assert modalbatch("rm", "--yes").code == 0
    assert [path.name for path in applied.iterdir()] == ["mine.txt"]
    assert modalbatch("apply", "squares.yaml").code == 2
    assert modalbatch("apply", "squares.yaml", "--into-existing").code == 0
    assert modalbatch("verify", "--strict").code == 0
    assert (applied / "mine.txt").read_text() == "x"


ASK = """
import importlib, json, os, sys

sys.path.insert(0, os.getcwd())
app = importlib.import_module("squares_app")
with app.app.run():
    for verb in sys.argv[1:]:
        print(app.inspect.remote(json.dumps({"verb": verb, "run_id": "", "roots": {"": os.getcwd() + "/"}})))
"""


def test_next_to_the_data(modalbatch, applied, work):
    """The app's own `inspect`, in a container, says what the command says."""
    assert modalbatch("compile", "squares.yaml", "-o", "squares_app.py").code == 0
    (work / "ask.py").write_text(ASK)
    asked = modalbatch("local", "--", str(BIN / "python"), "ask.py", "plan", "ls", "verify")
    assert asked.code == 0, asked.err
    plan, parts, proof = map(json.loads, asked.out.splitlines())
    here = modalbatch("plan", "squares.yaml", "--json").json
    assert plan == {key: value for key, value in here.items() if key not in ("ok", "engine")}
    assert [part["uri"] for part in parts["parts"]] == [str(work / path) for path in modalbatch("ls").out.split()]
    assert proof == modalbatch("verify", "--json").json
    assert proof == modalbatch("verify", "squares.yaml", "--engine", "local", "--json").json


def test_a_sink_on_a_volume(modalbatch, squares, work):
    spec = work / "squares.yaml"
    spec.write_text(spec.read_text().replace("sink: out/", "sink: volume://squares-out/here/"))
    assert modalbatch("apply", "squares.yaml").code == 0
    listed = modalbatch("ls", "volume://squares-out/here")
    assert listed.code == 0
    assert all(line.startswith("volume://squares-out/here/part-") for line in listed.out.splitlines())
    assert len(modalbatch("cat").out.splitlines()) == 10
    assert modalbatch("verify").code == 0
    here, there = modalbatch("verify", "--here", "--json"), modalbatch("verify", "--json")
    assert (there.code, there.json) == (0, here.json)
    assert modalbatch("plan", "squares.yaml", "--detailed-exitcode").code == 0
    (name,) = listed.out.splitlines()[:1]
    (work / "other").write_text("{}\n")
    path = name.removeprefix("volume://squares-out")
    put = ("local", "--", str(BIN / "modal"), "volume", "put", "--force", "squares-out", "other", path)
    assert modalbatch(*put).code == 0
    damaged = modalbatch("verify", "squares.yaml")
    assert damaged.code == 1
    assert damaged.out.startswith(f"altered: {name.rpartition('/')[2]}: it has 3 bytes")
    removed = modalbatch("rm", "--yes", "--json")
    assert (removed.code, removed.json["foreign"]) == (0, 0)
    assert modalbatch("ls").code == 2


def test_a_sink_in_a_bucket(modalbatch, squares, work, s3_bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    secrets = modalbatch.home / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "keys.env").write_text("KEY_ID=test\nSECRET_KEY=test\n")
    access = "credentials: {secret: keys, access_key_id: KEY_ID, secret_access_key: SECRET_KEY}"
    sink = f"sink: {{uri: '{s3_bucket.uri}out/', endpoint_url: '{s3_bucket.endpoint_url}', {access}}}"
    spec = work / "squares.yaml"
    spec.write_text(spec.read_text().replace("sink: out/", sink))
    assert modalbatch("apply", "squares.yaml").code == 0
    listed = modalbatch("ls", f"{s3_bucket.uri}out")
    assert listed.code == 0
    assert all(line.startswith(f"{s3_bucket.uri}out/part-") for line in listed.out.splitlines())
    assert len(modalbatch("cat", "squares").out.splitlines()) == 10
    assert modalbatch("verify", f"{s3_bucket.uri}out/").code == 0
    assert modalbatch("rm", "--yes").code == 0
    assert modalbatch("verify", "squares.yaml").code == 2
    (secrets / "keys.env").unlink()
    without = modalbatch("ls", "squares.yaml")
    assert without.code == 75
    assert without.err == (
        "error: `KEY_ID` of the secret `keys` is not set\nhint: export KEY_ID=…, or add it to the secret\n"
    )
