"""A disk that is full, limited, read-only or broken: one clear line, exit code 75, nothing half-written; it goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from modalbatch.names import is_ours, parse_manifest_name, parse_receipt_name
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores.local import LocalStore
from servers import Bucket

N_FILES = 6
ROOT = Path(__file__).resolve().parents[2]
#: One run of the job in a process of its own; the outcome on its last line.
_RUN = """\
import json, os, resource, sys
from pathlib import Path
from harness import run_job
from modalbatch.job import Handler, Job, Retries, Sink, Source

folder, sink, run_id, most_bytes = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
job = Job(
    name="disk",
    handler=Handler(call="disk_handler:work"),
    source=Source(uris=("data/**/*.jsonl",)),
    sink=Sink(uri=sink),
    retries=Retries(max_retries=1, initial_delay_s=0.01),
)
if most_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
# An engine of its own: what an attempt left is known to be dead when the next run sweeps.
outcome = run_job(job, folder, run_id=run_id, engine={"kind": "local", "home": "here", "id": run_id})
print(json.dumps(outcome))
"""
_HANDLER = """\
def work(record):
    return {"n": record["n"], "pad": "x" * record["pad"]}
"""


class Job:
    """A job of six files whose sink lies on a disk of its own."""

    def __init__(self, folder: Path, sink: Path, pad: int = 6000) -> None:
        self.folder, self.sink_path = folder, sink
        (folder / "data").mkdir()
        (folder / "disk_handler.py").write_text(_HANDLER)
        for n in range(N_FILES):
            (folder / f"data/{n}.jsonl").write_text(json.dumps({"n": n, "pad": pad}) + "\n")

    def run(self, run_id: str, *, before: tuple[str, ...] = (), most_bytes: int = 0, **environ: str) -> dict:
        command = [*before, sys.executable, "-c", _RUN, str(self.folder), f"{self.sink_path}/", run_id, str(most_bytes)]
        path = os.pathsep.join([str(ROOT / "runner"), str(ROOT / "tests")])
        variables = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environ}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    @property
    def sink(self) -> ObjectSink:
        return ObjectSink(LocalStore(str(self.sink_path)))

    def check_nothing_half(self) -> set[str]:
        """Nothing but whole receipts of whole parts, and a manifest only if it lists everything; the receipts."""
        entries = {entry.name: entry.size_bytes for entry in self.sink.store.list()}
        receipts = {name for name in entries if parse_receipt_name(name)}
        for name in receipts:
            receipt = self.sink.read_receipt(name)
            assert {part.name: part.bytes for part in receipt.parts}.items() <= entries.items()
        if any(parse_manifest_name(name) for name in entries):
            assert dict(self.sink.live(self.sink.newest())).keys() == receipts
            assert len(receipts) == N_FILES
        else:
            assert "_SUCCESS" not in entries
        tmp = self.sink_path / "_modalbatch/tmp"
        assert not tmp.exists() or list(tmp.iterdir()) == []
        return receipts

    def check_continues(self, n_kept: int) -> None:
        """The next run does what is missing; the result is whole, and only that is left."""
        outcome = self.run("again")
        assert outcome["exit_code"] == 0, outcome
        assert (outcome["splits"]["kept"], outcome["splits"]["done"]) == (n_kept, N_FILES - n_kept)
        live = dict(self.sink.live(self.sink.newest()))
        parts = {part.name for receipt in live.values() for part in receipt.parts}
        assert {entry.name for entry in self.sink.store.list() if is_ours(entry.name)} == parts
        lines = [line for name in parts for line in self.sink.store.read(name).splitlines()]
        assert sorted(json.loads(line)["n"] for line in lines) == list(range(N_FILES))


def check_trouble(outcome: dict, message: str, hint: str = "free some space, then run `apply` again") -> None:
    assert outcome["exit_code"] == 75, outcome
    assert re.fullmatch(message, outcome["error"]["message"]), outcome["error"]["message"]
    assert outcome["error"]["hint"] == hint


@pytest.fixture
def disks(tmp_path: Path) -> Iterator:
    """Small disks in memory; `disks(name, options)` mounts one."""
    if os.geteuid():
        pytest.skip("only root may mount a disk")
    with ExitStack() as stack:

        def mount(name: str, options: str) -> Path:
            path = tmp_path / name
            path.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", path], check=True)
            return path

        yield mount


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


FULL = r"disk full: cannot write `\S+` \(No space left on device\)"


@pytest.mark.parametrize("n_kib", [4, 8, 16, 24, 32, 56, 80, 88, 92])
def test_the_sinks_disk_is_full(disks, tmp_path: Path, n_kib: int) -> None:
    """F50: whichever write it is that finds no room: the owner, an attempt's spool, a receipt, the manifest."""
    disk = disks("disk", f"size={n_kib}k")
    job = Job(tmp_path, disk / "out")
    outcome = job.run("first")
    if outcome["exit_code"] == 0:
        assert n_kib > 80  # the last words of a run are not what it stands or falls with
        return
    check_trouble(outcome, rf"({N_FILES}|[1-5]) inputs or ranges are not done: {FULL}|{FULL}")
    receipts = job.check_nothing_half()
    assert outcome["splits"]["done"] == len(receipts)
    remount(disk, "size=8m")
    job.check_continues(len(receipts))


def test_the_sinks_disk_has_no_room_for_names(disks, tmp_path: Path) -> None:
    """F50: space is left, but no file can be made."""
    disk = disks("disk", "size=8m,nr_inodes=16")
    job = Job(tmp_path, disk / "out")
    check_trouble(job.run("first"), rf"(\d inputs or ranges are not done: )?{FULL}")
    receipts = job.check_nothing_half()
    remount(disk, "nr_inodes=1000")
    job.check_continues(len(receipts))


def test_the_spools_disk_is_full(disks, tmp_path: Path, s3_bucket: Bucket) -> None:
    """F50: room in the sink, none for what an attempt writes first; no record is blamed."""
    # One page: Python does not take a folder for its temporary files in which it can write nothing at all.
    spool, bucket = disks("spool", "size=4k"), s3_bucket
    Job(tmp_path, tmp_path / "unused")
    text = _RUN.replace("Sink(uri=sink)", f"Sink(uri={bucket.uri + 'out/'!r}, endpoint_url={bucket.endpoint_url!r})")
    command = [sys.executable, "-c", text, str(tmp_path), "", "first", "0"]
    path = os.pathsep.join([str(ROOT / "runner"), str(ROOT / "tests")])
    variables = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    full = subprocess.run(command, env={**variables, "TMPDIR": str(spool)}, capture_output=True, text=True, check=False)
    outcome = json.loads(full.stdout.splitlines()[-1])
    assert outcome["exit_code"] == 75, outcome
    assert outcome["counts"]["dead"] == 0
    assert "\n" not in outcome["error"]["message"]
    assert outcome["error"]["hint"]
    names = [item["Key"] for item in bucket.client().list_objects_v2(Bucket=bucket.name).get("Contents", [])]
    assert not [name for name in names if "part-" in name or "/receipts/" in name or "manifest-" in name]
    command[-2] = "again"
    roomy = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    outcome = json.loads(roomy.stdout.splitlines()[-1])
    assert (outcome["exit_code"], outcome["counts"]["out"]) == (0, N_FILES)


def test_no_file_may_be_so_large(tmp_path: Path) -> None:
    """F51: RLIMIT_FSIZE: a write comes back short, the next one fails; nothing short is committed."""
    job = Job(tmp_path, tmp_path / "out", pad=300_000)
    outcome = job.run("first", most_bytes=200_000)
    check_trouble(outcome, r"6 inputs or ranges are not done: disk full: cannot write `\S+` \(File too large\)")
    assert job.check_nothing_half() == set()
    job.check_continues(0)


def test_the_drivers_own_file_has_no_room(disks, tmp_path: Path) -> None:
    """F54 L: the disk of the driver's temporary index is full: nothing hangs on it but this run."""
    # Names so long that a few thousand of them are more than the index holds in memory.
    job, small = Job(tmp_path, tmp_path / "out"), disks("index", "size=64k")
    deep = tmp_path.joinpath("data", *["d" * 200] * 14)
    deep.mkdir(parents=True)
    more = [deep / f"{n}.jsonl" for n in range(4000)]
    for path in more:
        path.write_text("\n")
    outcome = job.run("first", SQLITE_TMPDIR=str(small))
    message = r"cannot use the driver's temporary file: (disk I/O error|database or disk is full)"
    check_trouble(outcome, message, "free some space on this machine, then run `apply` again")
    assert job.check_nothing_half() == set()
    for path in more:
        path.unlink()
    job.check_continues(0)


def test_a_folder_that_may_only_be_read(disks, tmp_path: Path) -> None:
    """The sink's disk is mounted for reading only: said before any record is processed."""
    disk = disks("disk", "size=1m,ro")
    job = Job(tmp_path, disk / "out")
    outcome = job.run("first")
    check_trouble(outcome, r"cannot write `\S+`: Read-only file system", "check the permissions of the folder")
    assert outcome["counts"]["in"] == 0
    remount(disk, "rw")
    job.check_continues(0)


# -- a disk that fails, by strace


def strace(*rules: str, output: Path) -> tuple[str, ...]:
    if not shutil.which("strace"):
        pytest.skip("strace is not here")
    calls = ",".join(rule.partition(":")[0] for rule in rules)
    injected = [word for rule in rules for word in ("-e", f"inject={rule}")]
    return ("strace", "-f", "-qq", "-o", str(output), "-e", f"trace={calls}", *injected)


@pytest.mark.parametrize("nth", [1, 4, 9, 14, 18, 21])
def test_a_sync_fails(tmp_path: Path, nth: int) -> None:
    """F53: EIO for the n-th and every later fsync of each thread: never taken for success."""
    job, log = Job(tmp_path, tmp_path / "out"), tmp_path / "strace"
    outcome = job.run("first", before=strace(f"fsync:error=EIO:when={nth}+", output=log))
    if outcome["exit_code"] == 0:
        # Which thread writes what is chance; so many writes of one are all, or all but the last words of the run.
        assert nth > 14
        job.check_continues(N_FILES)
        return
    assert "(INJECTED)" in log.read_text()
    message = r"(\d inputs or ranges are not done: )?cannot write `\S+`: Input/output error"
    check_trouble(outcome, message, outcome["error"]["hint"])
    receipts = job.check_nothing_half()
    job.check_continues(len(receipts))


_STORE = """\
import hashlib, os, sys
from pathlib import Path
from modalbatch.errors import ModalbatchError
from modalbatch.stores.local import LocalStore

root, log = Path(sys.argv[1]), []
store = LocalStore(str(root / "sink"))


def attempt(name, call):
    try:
        log.append(f"{name} {call()}")
    except ModalbatchError as error:
        log.append(f"{name} failed {error.exit_code} {error.message}")


for n in range(2):
    attempt(f"r/{n}", lambda: store.create(f"r/{n}", b"receipt" * 1000))
    spool = root / f"spool-{n}"
    attempt(f"p/{n}", lambda: store.put_file(f"p/{n}", spool, hashlib.sha256(b"part" * 1000).hexdigest()))
    attempt(f"s/{n}", lambda: store.replace(f"s/{n}", b"success" * 1000))
attempt("delete", lambda: store.delete(["s/1"]))
try:
    print("\\n".join(log), flush=True)
except OSError:
    os._exit(3)  # what failed was this line
"""


@pytest.mark.parametrize(
    ("call", "error"),
    [("fsync", "EIO"), ("write", "ENOSPC"), ("write", "EIO"), ("link", "EIO"), ("mkdir", "ENOSPC"), ("rename", "EIO"),
     ("unlink", "EIO")],
)  # fmt: skip
def test_every_call_of_the_store_fails_once(tmp_path: Path, call: str, error: str) -> None:
    """F53: the n-th write, fsync, link … of the store fails, for every n: an error of ours, and no half file."""
    whole = {"r": b"receipt" * 1000, "p": b"part" * 1000, "s": b"success" * 1000}
    for nth in range(1, 60):
        folder, log = tmp_path / f"{nth}", tmp_path / f"{nth}.log"
        folder.mkdir()
        for n in range(2):
            (folder / f"spool-{n}").write_bytes(whole["p"])
        command = [*strace(f"{call}:error={error}:when={nth}", output=log), sys.executable, "-c", _STORE, str(folder)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT / "runner"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if "(INJECTED)" not in log.read_text():
            assert nth > 2
            return
        if done.returncode == 3:
            continue
        assert done.returncode == 0, done.stderr
        said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
        files = {
            path.relative_to(folder / "sink").as_posix(): path
            for path in (folder / "sink").rglob("*")
            if path.is_file()
        }
        for name, path in files.items():
            if not name.startswith("_modalbatch/tmp/"):
                assert path.read_bytes() == whole[name[0]], (nth, name)
        for name, answer in said.items():
            if answer.startswith("failed"):
                assert re.match(r"failed 75 (disk full: )?cannot (write|delete) `", answer), answer
            elif name != "delete":
                assert name in files or name == "s/1", (nth, name, said)
        if call != "unlink":
            assert not [name for name in files if name.startswith("_modalbatch/tmp/")], (nth, said)
    raise AssertionError("the calls of the store do not end")
