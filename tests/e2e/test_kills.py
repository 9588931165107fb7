"""`kill -9` of each process of a run, at three kinds of moments, on two kinds of sinks; `apply` does what is left."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from command import Command, live_records, remaining, write_records
from servers import Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]

N_FILES, N_RECORDS = 48, 20
SPEC = """\
version: 1
name: killed
handler: handlers:square
source: {uri: data/*.jsonl, split: {files: 1}}
sink: SINK
"""
RECEIPTS = "_modalbatch/receipts/"
HANDLER = """\
import os
import time


def square(record):
    log = os.open(record["calls"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{record['file']} {record['n']}\\n".encode())
    os.close(log)
    time.sleep(0.02 if os.path.exists(record["calls"] + ".slow") else 0)
    return {"file": record["file"], "n": record["n"], "square": record["n"] ** 2}
"""
#: What is killed, one after the other in one job. With the first four the command ends, the others it survives.
ENDING = ("command", "client", "engine", "everything")
TARGETS = ("slot", "command", "worker", "client", "driver", "engine", "fork server", "everything")


class Family:
    """The processes of a command by what they are, at one moment."""

    def __init__(self, command_pid: int) -> None:
        self._children: dict[int, list[int]] = {}
        self._words: dict[int, str] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                self._words[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            self._children.setdefault(parent, []).append(int(folder.name))
        everything = [command_pid]
        for pid in everything:
            everything += self._children.get(pid, [])
        servers = self._of(self._of([command_pid], "engines.local.main"), "guest_forkserver")
        # A container is three processes: keeper, init, main. What a worker has and a driver has not is a slot.
        mains = servers
        for _ in range(3):
            mains = self._of(mains, "guest_forkserver")
        workers = [pid for pid in mains if self._of([pid], "runtime.slot")]
        self.pids = {
            "command": [command_pid],
            "client": self._of([command_pid], "engines.client"),
            "engine": self._of([command_pid], "engines.local.main"),
            "fork server": servers,
            "driver": [pid for pid in mains if _has_index(pid)][:1],
            "worker": workers[:1],
            "slot": self._of(workers, "runtime.slot")[:1],
            "everything": everything if workers else [],
        }

    def _of(self, parents: list[int], word: str) -> list[int]:
        found = [pid for parent in parents for pid in self._children.get(parent, [])]
        return sorted(pid for pid in found if word in self._words.get(pid, ""))


def _has_index(pid: int) -> bool:
    """Whether the process has a driver's index; a container that only waits for work has loaded no SQLite."""
    try:
        return "/_sqlite3." in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


class Folder:
    """A sink on the disk of the test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "out"
        self.spec = "out/"

    def receipts(self) -> list[str]:
        """Their names."""
        return [f"{RECEIPTS}{path.name}" for path in (self.path / RECEIPTS).glob("*.json")]

    def read(self, name: str) -> bytes:
        """An object."""
        return (self.path / name).read_bytes()

    def take(self, folder: Path) -> None:
        """Move everything away."""
        self.path.rename(folder)


class Remote:
    """A sink in a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        side = "credentials: {secret: s3, access_key_id: KEY_ID, secret_access_key: SECRET_KEY}"
        self.spec = f"{{uri: '{bucket.uri}out/', endpoint_url: '{bucket.endpoint_url}', {side}}}"
        self._bucket, self._client = bucket, bucket.client()

    def _names(self, prefix: str = "") -> list[str]:
        found = self._client.list_objects_v2(Bucket=self._bucket.name, Prefix=f"out/{prefix}")
        assert not found["IsTruncated"]
        return [item["Key"].removeprefix("out/") for item in found.get("Contents", [])]

    def receipts(self) -> list[str]:
        """Their names."""
        return self._names(RECEIPTS)

    def read(self, name: str) -> bytes:
        """An object."""
        return self._client.get_object(Bucket=self._bucket.name, Key=f"out/{name}")["Body"].read()

    def take(self, folder: Path) -> None:
        """Move everything away."""
        for name in self._names():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(name))
            self._client.delete_object(Bucket=self._bucket.name, Key=f"out/{name}")


class Killed:
    """A job in a folder, and what is seen of it from outside."""

    def __init__(self, folder: Path, sink: Folder | Remote) -> None:
        self.sink = sink
        self.calls_path = folder / "calls"
        self.slow_path = folder / "calls.slow"
        self.slow_path.touch()
        (folder / "killed.yaml").write_text(SPEC.replace("SINK", sink.spec))
        (folder / "handlers.py").write_text(HANDLER)
        for file in range(N_FILES):
            records = [{"file": file, "n": n, "calls": str(self.calls_path)} for n in range(N_RECORDS)]
            write_records(folder / f"data/{file:02}.jsonl", records)

    def done(self) -> set[int]:
        """Files whose split has a receipt."""
        receipts = [json.loads(self.sink.read(name)) for name in self.sink.receipts()]
        return {int(Path(item[0]).stem) for receipt in receipts for item in receipt["inputs"]}

    def calls(self) -> list[list[str]]:
        """File and record of each call of the handler so far."""
        return [line.split() for line in self.calls_path.read_text().splitlines()] if self.calls_path.exists() else []

    def calls_of(self, files: set[int]) -> list[list[str]]:
        """The calls for these files."""
        return [call for call in self.calls() if int(call[0]) in files]

    def begun(self) -> Counter[int]:
        """Attempts so far, by file: each begins with the first record.

        Not calls: an attempt whose driver was killed may still run when the next one's is done.
        """
        return Counter(int(file) for file, record in self.calls() if record == "0")


#: From what is seen now, whether the moment has come, given what was seen before.
MOMENTS: dict[str, Callable[[Killed], int]] = {
    "as soon as it is there": lambda job: 1,
    "in the middle of a split": lambda job: len(job.calls()) // 15,
    "when a split is done": lambda job: len(job.sink.receipts()),
}


@pytest.fixture
def remote(modalbatch, s3_bucket) -> Remote:
    secret = modalbatch.home / "secrets/s3.env"
    secret.parent.mkdir(parents=True)
    secret.write_text("KEY_ID=test\nSECRET_KEY=test\nAWS_DEFAULT_REGION=us-east-1\n")
    return Remote(s3_bucket)


@pytest.mark.parametrize("moment", MOMENTS)
def test_whatever_is_killed_the_job_is_finished_and_nothing_done_twice(modalbatch, work, moment):
    """F03 L, F05 L, F07 L, F19 L, F20 L"""
    _kill_all(modalbatch, work, Folder(work), moment)


@pytest.mark.parametrize("moment", MOMENTS)
def test_whatever_is_killed_a_job_in_a_bucket_is_finished(modalbatch, work, remote, moment):
    """F03 S, F05 S, F07 S, F19 S, F20 S"""
    _kill_all(modalbatch, work, remote, moment)


def _kill_all(modalbatch: Command, work: Path, sink: Folder | Remote, moment: str) -> None:
    job, (mark,) = Killed(work, sink), modalbatch.environ
    run, finished = None, {}
    for n, target in enumerate(TARGETS):
        run = run or modalbatch.start("apply", "killed.yaml")
        seen = 0 if moment == "as soon as it is there" else MOMENTS[moment](job)
        while not (MOMENTS[moment](job) > seen and (victims := Family(run.process.pid).pids[target])):
            assert run.process.poll() is None, f"{target}: {run.end()}"
            time.sleep(0.01)
        done, begun = job.done(), job.begun()
        assert len(done) < N_FILES, f"{target}: the run was over before it"
        finished |= {file: begun[file] for file in done - set(finished)}
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it went with one that was killed before it
                assert target == "everything"
        if target in ENDING:
            assert run.end().code in (75, -signal.SIGKILL), n
            assert remaining(mark) == []
            run = None
    job.slow_path.unlink()
    # Nothing is left that could still run: from here on no record of a finished split may be seen again.
    done = job.done()
    calls = job.calls_of(done)
    last = modalbatch("apply", "killed.yaml", "--json")
    assert last.code == 0, last.err
    assert job.calls_of(done) == calls
    assert {file: job.begun()[file] for file in finished} == finished
    assert modalbatch("verify", "killed.yaml").code == 0
    sink.take(work / "disturbed")
    assert modalbatch("apply", "killed.yaml").code == 0
    sink.take(work / "undisturbed")
    undisturbed = sorted(map(json.dumps, live_records(work / "undisturbed")))
    assert sorted(map(json.dumps, live_records(work / "disturbed"))) == undisturbed
    assert len(undisturbed) == N_FILES * N_RECORDS
