"""The same app under `modal run`, and sinks that are not folders: buckets and Volumes."""

from __future__ import annotations

import json
import re

from command import live_records
from servers import s3_server  # noqa: F401


def plain(text: str) -> list[str]:
    """What a command said, without what differs between two runs."""
    text = re.sub(r"(?m)^running: .*\n", "", text)  # said after some seconds, which a slow machine may take
    text = re.sub(r"in [\d.]+ s:", "in TIME:", text)
    return re.sub(r"[\d,]+ records/s", "RATE", text).splitlines()


def test_modal_run_says_and_does_what_apply_does(modalbatch, squares, work):
    applied = modalbatch("apply", "squares.yaml")
    assert applied.code == 0
    again = modalbatch("apply", "squares.yaml")
    (work / "out").rename(work / "old")
    assert modalbatch("compile", "squares.yaml", "-o", "app.py").code == 0
    run = modalbatch("local", "--", "modal", "run", "-q", "app.py")
    assert (run.code, plain(run.err)) == (0, plain(applied.err))
    assert live_records(squares) == live_records(work / "old")
    rerun = modalbatch("local", "--", "modal", "run", "-q", "app.py")
    assert (rerun.code, plain(rerun.err)) == (0, plain(again.err))
    assert modalbatch("status").out.splitlines()[0].endswith(" of squares: done")


def test_modal_run_ends_with_the_code_of_the_run(modalbatch, squares, work):
    (work / "handlers.py").write_text("def square(record):\n    raise ValueError(record['n'])\n")
    (work / "squares.yaml").write_text((work / "squares.yaml").read_text() + "retries: 0\n")
    assert modalbatch("compile", "squares.yaml", "-o", "app.py").code == 0
    run = modalbatch("local", "--", "modal", "run", "-q", "app.py")
    assert run.code == 1
    assert "error: nothing succeeded: all 10 records failed" in run.err.splitlines()


def test_volume_sink(modalbatch, example):
    spec = str(example("volume-sink"))
    done = modalbatch("apply", spec, "--json")
    assert (done.code, done.json["status"]) == (0, "done"), done.err
    again = modalbatch("apply", spec, "--json")
    assert (again.code, again.json["status"]) == (0, "nothing_to_do"), again.err
    assert modalbatch("cat").out.count("\n") == done.json["counts"]["out"]
    assert modalbatch("verify").code == 0


def test_from_bucket_to_bucket(modalbatch, example, work, s3_server):  # noqa: F811
    import boto3

    spec = work / example("s3-to-s3")
    client = boto3.client(
        "s3", endpoint_url=s3_server, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    for bucket in ("modalbatch-in", "modalbatch-out"):
        client.create_bucket(Bucket=bucket)
    records = [json.dumps({"id": n, "text": "aa"}) for n in range(20)]
    for start in range(0, 20, 10):
        body = "\n".join(records[start : start + 10]).encode()
        client.put_object(Bucket="modalbatch-in", Key=f"docs/x/{start}.jsonl", Body=body)
    text = spec.read_text().replace("  uri: s3", f"  endpoint_url: {s3_server}\n  uri: s3")
    spec.write_text(text)
    secrets = modalbatch.home / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "s3-read.env").write_text("READ_KEY_ID=k\nREAD_SECRET_KEY=s\nAWS_DEFAULT_REGION=us-east-1\n")
    (secrets / "s3-write.env").write_text("WRITE_KEY_ID=k\nWRITE_SECRET_KEY=s\nAWS_DEFAULT_REGION=us-east-1\n")
    done = modalbatch("apply", spec.name, "--json")
    assert (done.code, done.json.get("status")) == (0, "done"), done.err + done.out
    assert done.json["counts"]["out"] == 20
    again = modalbatch("apply", spec.name, "--json")
    assert (again.code, again.json["status"]) == (0, "nothing_to_do")
    assert {json.loads(line)["text"] for line in modalbatch("cat").out.splitlines()} == {"AA"}
