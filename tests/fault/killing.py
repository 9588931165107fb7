"""A run of a small job in a process of its own that is killed at the k-th thing it does to the sink."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import run_job
from modalbatch.driver.verify import verify
from modalbatch.job import Handler, Job, OnError, Retries, Sink, Source
from modalbatch.names import parse_receipt_name
from modalbatch.runtime import slot
from modalbatch.sinks import open_sink
from modalbatch.sinks.objects import ObjectSink

N_FILES = 6
N_RECORDS = 8
HANDLER = """
import os

def work(record):
    fd = os.open({calls!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{{record['file']}}\\n".encode())
    os.close(fd)
    if record["n"] == 3:
        raise ValueError("three")
    return None if record["n"] == 5 else {{"file": record["file"], "n": record["n"]}}
"""
_EVENTS = {"open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.truncate"}


class ForkedProcess:
    """As much of `Popen` as a slot's worker uses."""

    def __init__(self, fds: tuple[int, int]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            # As `Popen` does: a slot that held the other end of its own socket would outlive its worker.
            low, high = sorted(fds)
            os.closerange(3, low)
            os.closerange(low + 1, high)
            os.closerange(high + 1, 4096)
            sys.argv = ["slot", *map(str, fds)]
            try:
                slot.main()
            finally:
                os._exit(0)

    def poll(self) -> int | None:
        if self.returncode is None and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.returncode = 0
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


@contextmanager
def forked_slots() -> Any:
    """Slots are forked instead of started: the same code, a twentieth of the time."""
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        is_slot = command[1:3] == ["-m", "modalbatch.runtime.slot"]
        return ForkedProcess(options["pass_fds"]) if is_slot else popen(command, **options)

    subprocess.Popen = start  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        subprocess.Popen = popen  # type: ignore[misc]


def make_job(folder: Path, sink: Sink | None = None) -> Job:
    """`sink`: elsewhere than in the folder."""
    (folder / "data").mkdir()
    for file in range(N_FILES):
        lines = [json.dumps({"file": file, "n": n}) + "\n" for n in range(N_RECORDS)]
        (folder / f"data/{file}.jsonl").write_text("".join(lines))
    (folder / "killed_handler.py").write_text(HANDLER.format(calls=str(folder / "calls")))
    return Job(
        name="killed",
        handler=Handler(call="killed_handler:work"),
        source=Source(uris=("data/*.jsonl",)),
        sink=sink or Sink(uri="out/"),
        retries=Retries(max_retries=0),
        on_error=OnError(max_failed=1000),
    )


def sink_of(job: Job, folder: Path) -> ObjectSink:
    return open_sink(job, {"": f"{folder}/"})


def run_in_process(job: Job, folder: Path, *, run_id: str, kill_at: int | None = None, **request: Any) -> int:
    """Run it; the exit status. Each run is under an engine of its own, as after a loss of the machine."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        counter = _arm(folder / "out", kill_at) if "://" not in job.sink.uri else _arm_requests(kill_at)
        with forked_slots():
            engine = {"kind": "local", "home": "here", "id": run_id}
            outcome = run_job(job, folder, run_id=run_id, engine=engine, **request)
        (folder / f"{run_id}.json").write_text(json.dumps({**outcome, "n_points": counter[0]}))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _arm(sink_path: Path, kill_at: int | None) -> list[int]:
    counter, ours, pid, fsync = [0], str(sink_path), os.getpid(), os.fsync

    def point() -> None:
        if os.getpid() == pid:  # not in slots
            if counter[0] == kill_at:
                os.kill(pid, signal.SIGKILL)
            counter[0] += 1

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS and any(isinstance(a, (str, Path, bytes)) and ours in str(a) for a in arguments):
            point()

    def counted_fsync(descriptor: int) -> None:
        point()
        fsync(descriptor)

    sys.addaudithook(hook)
    os.fsync = counted_fsync
    return counter


def _arm_requests(kill_at: int | None) -> list[int]:
    """A point before each request to the store, and one between its being carried out and its reply being known."""
    from botocore.httpsession import URLLib3Session

    counter, pid, send = [0], os.getpid(), URLLib3Session.send

    def point() -> None:
        if os.getpid() == pid:
            if counter[0] == kill_at:
                os.kill(pid, signal.SIGKILL)
            counter[0] += 1

    def counted_send(session: Any, request: Any) -> Any:
        point()
        reply = send(session, request)
        point()
        return reply

    URLLib3Session.send = counted_send
    return counter


def done_files(sink: ObjectSink) -> set[int]:
    """Files whose splits have a receipt."""
    names = [entry.name for entry in sink.store.list() if parse_receipt_name(entry.name)]
    receipts = [receipt for name in names if (receipt := sink.read_receipt(name))]
    return {int(Path(unit.uri).stem) for receipt in receipts for unit in receipt.units}


def calls(folder: Path) -> Counter[int]:
    """Handler calls so far, by file."""
    path = folder / "calls"
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def what_is_wrong(sink: ObjectSink) -> str | None:
    """Compare a finished sink with the one result that there is."""
    manifest = sink.newest()
    if manifest is None:
        return "no manifest"
    live = dict(sink.live(manifest))
    for receipt in live.values():
        for part in receipt.parts + receipt.dead:
            entry = sink.store.stat(part.name)
            if entry is None or entry.size_bytes != part.bytes:
                return f"{part.name} is not what its receipt says"
    named = {part.name for receipt in live.values() for part in receipt.parts}
    found = {entry.name for entry in sink.store.list("part-")}
    if found != named:
        return f"a glob of part-* is not the live set: {found ^ named}"
    records = [json.loads(line) for name in sorted(named) for line in sink.store.read(name).splitlines()]
    expected = [(file, n) for file in range(N_FILES) for n in range(N_RECORDS) if n not in (3, 5)]
    if sorted((record["file"], record["n"]) for record in records) != expected:
        return f"{len(records)} records, expected {len(expected)}"
    dead = [part.name for receipt in live.values() for part in receipt.dead]
    letters = [json.loads(line)["record"] for name in dead for line in sink.store.read(name).splitlines()]
    if sorted(letter["file"] for letter in letters) != list(range(N_FILES)):
        return "dead letters are not one for each file"
    proof = verify(sink)
    if not proof.is_whole or proof.n_extras:
        return f"verify says {proof.problems or proof.extras}"
    success = sink.success()
    if success is None or success["manifest"] != manifest.number:
        return f"_SUCCESS says {success}"
    return None
