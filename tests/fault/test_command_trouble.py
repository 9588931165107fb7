"""The real command when a store or a disk stops working: what it says, its exit code, and that it goes on after it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Command, live_records, write_records
from e2e.conftest import SQUARES
from fault_proxy import FaultProxy, Seen
from servers import Bucket

N_FILES = 6
SIDE = "credentials: {secret: s3, access_key_id: KEY_ID, secret_access_key: SECRET_KEY}"


@pytest.fixture
def remote(modalbatch: Command, squares: Path, work: Path, s3_bucket: Bucket, fault_proxy: FaultProxy) -> Bucket:
    """The job `squares` with its sink in a bucket, reached through the proxy; one attempt at a time."""
    text = SQUARES.replace(
        "sink: out/", f"sink: {{uri: '{s3_bucket.uri}out/', endpoint_url: '{fault_proxy.url}', {SIDE}}}"
    )
    (work / "squares.yaml").write_text(f"{text}retries: {{max_retries: 1, initial_delay: 0.1s}}\n")
    for n in range(N_FILES):
        write_records(work / f"data/{n}.jsonl", [{"n": n}])
    for name in "ab":
        (work / f"data/{name}.jsonl").unlink()
    secret = modalbatch.home / "secrets/s3.env"
    secret.parent.mkdir(parents=True)
    secret.write_text("KEY_ID=test\nSECRET_KEY=test\nAWS_DEFAULT_REGION=us-east-1\nAWS_MAX_ATTEMPTS=2\n")
    return s3_bucket


def after_receipts(n: int):
    def begun(seen: list[Seen]) -> bool:
        return (
            sum(item.method == "PUT" and "/receipts/" in item.path and "probe-" not in item.path for item in seen) >= n
        )

    return begun


def names(bucket: Bucket) -> list[str]:
    return [item["Key"] for item in bucket.client().list_objects_v2(Bucket=bucket.name).get("Contents", [])]


def said(done) -> list[str]:
    """The error and its hint, which are all that is said of what went wrong."""
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    (first,) = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    return lines[first:]


def check_whole(modalbatch: Command, *, exactly: dict[str, int]) -> None:
    """Apply again does what is missing; then everything is there once, and nothing is left to do."""
    again = modalbatch("apply", "squares.yaml", "--json")
    assert (again.code, again.json["splits"]) == (0, {**again.json["splits"], **exactly}), again.err
    records = [json.loads(line)["n"] for line in modalbatch("cat", "squares.yaml").out.splitlines()]
    assert sorted(records) == list(range(N_FILES))
    assert modalbatch("verify", "squares.yaml").code == 0
    assert modalbatch("apply", "squares.yaml", "--json").json["status"] == "nothing_to_do"


@pytest.mark.parametrize(
    ("fault", "error", "hint"),
    [
        (
            {"kind": "status", "status": 403, "code": "ExpiredToken"},
            "error: access denied: cannot ",
            "hint: check the credentials, and that they may list, get, put and delete objects there",
        ),
        ({"kind": "reset"}, "error: ", "hint: check the network and `endpoint_url`"),
    ],
    ids=["expired", "gone"],
)
def test_the_store_fails_in_the_middle(
    modalbatch: Command, remote: Bucket, fault_proxy: FaultProxy, fault: dict, error: str, hint: str
) -> None:
    """F35 F44: exit code 75, one line and a hint; the next `apply` goes on."""
    trouble = fault_proxy.add(**fault, times=None, when=after_receipts(2))
    done = modalbatch("apply", "squares.yaml", "--containers", "1")
    assert done.code == 75, done.err
    lines = said(done)
    assert lines[0].startswith(error.format(remote.name)) or f" not done: {error[7:].format(remote.name)}" in lines[0]
    assert lines[1] == hint
    left = names(remote)
    assert not [name for name in left if "manifest-" in name or name.endswith("_SUCCESS")]
    n_receipts = sum("/receipts/" in name for name in left)
    assert n_receipts >= 2
    trouble.times = 0
    check_whole(modalbatch, exactly={"kept": n_receipts, "done": N_FILES - n_receipts})


def test_a_store_that_overwrites(modalbatch: Command, remote: Bucket, fault_proxy: FaultProxy, work: Path) -> None:
    """F45: refused before anything runs; with `delivery: at_least_once` the job runs, and what it leaves verifies."""
    fault_proxy.add("strip", method="PUT", header="If-None-Match", times=None)
    done = modalbatch("apply", "squares.yaml")
    assert (done.code, said(done)) == (
        2,
        [
            f"error: `{remote.uri}out/` overwrites objects that must be written once: it ignores `If-None-Match`",
            "hint: set `delivery: at_least_once`, or use a store with conditional writes",
        ],
    )
    assert names(remote) == []
    spec = work / "squares.yaml"
    spec.write_text(f"{spec.read_text()}delivery: at_least_once\n")
    check_whole(modalbatch, exactly={"done": N_FILES, "kept": 0})
    write_records(work / "data/more.jsonl", [])
    (work / f"data/{N_FILES - 1}.jsonl").write_text(json.dumps({"n": N_FILES - 1}) + "\n\n")
    check_whole(modalbatch, exactly={"kept": N_FILES - 1})


def test_an_input_that_is_gone_or_changed(
    modalbatch: Command, remote: Bucket, fault_proxy: FaultProxy, work: Path
) -> None:
    """F47 F48: between plan and reading an object is deleted, another overwritten: said by name, never skipped."""
    client = remote.client()
    for n in range(N_FILES):
        client.put_object(Bucket=remote.name, Key=f"in/{n}.jsonl", Body=json.dumps({"n": n}).encode())
    spec = work / "squares.yaml"
    source = (
        f"source: {{uri: '{remote.uri}in/*.jsonl', endpoint_url: '{fault_proxy.url}', split: {{files: 1}}, {SIDE}}}"
    )
    spec.write_text(spec.read_text().replace("source: {uri: data/*.jsonl, split: {files: 1}}", source))

    def change(seen: list[Seen]) -> bool:
        if after_receipts(1)(seen) and trouble.times:
            trouble.times = 0
            client.delete_object(Bucket=remote.name, Key=f"in/{N_FILES - 2}.jsonl")
            client.put_object(Bucket=remote.name, Key=f"in/{N_FILES - 1}.jsonl", Body=b'{"n": 50}')
        return False

    trouble = fault_proxy.add("status", when=change)
    done = modalbatch("apply", "squares.yaml", "--containers", "1")
    assert done.code == 75, done.err
    lines = said(done)
    assert lines[0].startswith("error: 2 inputs or ranges are not done: `s3://")
    assert "changed after it was listed" in lines[0] or "does not exist" in lines[0]
    again = modalbatch("apply", "squares.yaml", "--json")
    assert again.code == 0, again.err
    records = sorted(json.loads(line)["n"] for line in modalbatch("cat", "squares.yaml").out.splitlines())
    assert records == [0, 1, 2, 3, 50]


def test_bodies_that_break_off(modalbatch: Command, remote: Bucket, fault_proxy: FaultProxy, work: Path) -> None:
    """F40: half of what is read breaks off once; no record is lost, doubled or torn."""
    lines = [json.dumps({"n": n}) for n in range(20_000)]
    remote.client().put_object(Bucket=remote.name, Key="in/all.jsonl", Body="\n".join(lines).encode())
    spec = work / "squares.yaml"
    source = f"source: {{uri: '{remote.uri}in/*.jsonl', endpoint_url: '{fault_proxy.url}', split: 64KiB, {SIDE}}}"
    spec.write_text(spec.read_text().replace("source: {uri: data/*.jsonl, split: {files: 1}}", source))
    for n, kind in enumerate(["cut", "shorten", "drip", "cut", "shorten"]):
        fault_proxy.add(kind, method="GET", path="all.jsonl", after_bytes=1000 + 7 * n)
    done = modalbatch("apply", "squares.yaml", "--json")
    assert (done.code, done.json["counts"]["out"]) == (0, 20_000), done.err
    assert all(fault.n_hits for fault in fault_proxy.faults)
    records = [json.loads(line)["n"] for line in modalbatch("cat", "squares.yaml").out.splitlines()]
    assert sorted(records) == list(range(20_000))


@pytest.fixture
def disk(work: Path) -> Iterator[Path]:
    """A small disk in memory."""
    if os.geteuid():
        pytest.skip("only root may mount a disk")
    path = work / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def test_the_disk_is_full(modalbatch: Command, squares: Path, work: Path, disk: Path) -> None:
    """F50 L: exit code 75, what is full, and what to do; then it goes on."""
    (work / "squares.yaml").write_text(SQUARES.replace("sink: out/", "sink: disk/out/"))
    for n in range(N_FILES):
        write_records(work / f"data/{n}.jsonl", [{"n": n}])
    for name in "ab":
        (work / f"data/{name}.jsonl").unlink()
    done = modalbatch("apply", "squares.yaml")
    assert done.code == 75, done.err
    lines = said(done)
    assert "disk full: cannot write `" in lines[0]
    assert lines[1] == "hint: free some space, then run `apply` again"
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    again = modalbatch("apply", "squares.yaml", "--json")
    assert again.code == 0, again.err
    assert again.json["splits"]["kept"] + again.json["splits"]["done"] == N_FILES
    assert sorted(record["n"] for record in live_records(disk / "out")) == list(range(N_FILES))


@pytest.mark.parametrize("what", ["flipped", "empty", "gone", "a folder"])
def test_the_ledger_is_not_the_truth(modalbatch: Command, squares: Path, work: Path, what: str) -> None:
    """F55 L, F56 L: a ledger that is damaged, empty, deleted or no file: nothing is done again, every verb works."""
    assert modalbatch("apply", "squares.yaml").code == 0
    ledgers = list(squares.glob("_modalbatch/runs/*/ledger-*.jsonl"))
    assert ledgers
    for ledger in ledgers:
        data = ledger.read_bytes()
        ledger.unlink()
        if what == "flipped":
            ledger.write_bytes(data[:40] + bytes([data[40] ^ 64]) + data[41:] + b"\xff\xfe{")
        elif what == "empty":
            ledger.write_bytes(b"")
        elif what == "a folder":
            ledger.mkdir()
    assert modalbatch("apply", "squares.yaml", "--json").json["status"] == "nothing_to_do"
    for verb in ("verify", "status", "runs", "errors", "ls"):
        done = modalbatch(verb)
        assert done.code == 0, (verb, done.err)
        assert "Traceback" not in done.err
    assert len(live_records(squares)) == 10
