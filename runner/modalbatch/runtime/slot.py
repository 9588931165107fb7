"""The slot: a child process that constructs the handler once and runs tasks. Runs on: container.

It publishes nothing and decides nothing: the worker does, so that a slot may die at any instant. It speaks JSON lines
with its worker over one socket, and ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from modalbatch.errors import ModalbatchError
from modalbatch.job import Job
from modalbatch.records import Split
from modalbatch.runtime import fork
from modalbatch.runtime.attempts import UsedSlot
from modalbatch.runtime.callers import Callers
from modalbatch.runtime.handler import Failure, Handler, describe
from modalbatch.runtime.progress import Checkpoint, Progress
from modalbatch.runtime.split_run import FailedRecord, SplitRun, StoppedEarly, Task
from modalbatch.stores.local_file import unavailable

Json = dict[str, Any]

#: Exit code of a slot that cannot answer any more.
EXIT_WITHOUT_SOCKET = 74


# The handler may put others in their place.
_dumps, _loads = json.JSONEncoder().encode, json.JSONDecoder().decode


class Channel:
    """JSON lines from the worker. The reading thread is also the life line: at its end the process ends."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)  # what the handler starts must not hold it open
        self._socket = socket.socket(fileno=fd)
        self._inode = os.fstat(fd).st_ino
        self._messages: queue.SimpleQueue[Json] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="modalbatch-worker", daemon=True).start()

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    self._messages.put(_loads(line.decode()))
        finally:
            os._exit(0)  # the worker is gone: whatever the handler does now is nobody's

    def receive(self) -> Json:
        """The next message; blocks."""
        return self._messages.get()

    def send(self, message: Json) -> None:
        """One message to the worker; ends the process where the handler has closed the socket, or forked."""
        fork.leave()
        data = _dumps(message).encode() + b"\n"
        try:
            # Another file may have taken the number.
            if os.fstat(self._socket.fileno()).st_ino != self._inode:
                raise OSError("another file has its number")
            self._socket.sendall(data)
        except OSError:
            os._exit(EXIT_WITHOUT_SOCKET)

    def close(self) -> None:
        """Closes: the socket, in a fork."""
        self._socket.close()


def main() -> None:
    """`python -m modalbatch.runtime.slot SOCKET_FD PROGRESS_FD`."""
    # The worker decides when a slot ends. No SIG_IGN: what the handler starts would inherit it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    channel = Channel(int(sys.argv[1]))
    progress = Progress(int(sys.argv[2]))
    fork.guard(channel.close, progress.release)
    job = Job.from_json(channel.receive()["job"])
    SplitRun.load(job)
    try:
        handler = Handler(job)
    except BaseException as error:  # whatever an import or a constructor raises is the user's start-up error
        channel.send({"kind": "start_failed", "error": describe(error)})
        return
    channel.send({"kind": "ready"})
    with Callers(job.handler.concurrency, handler.is_async) as callers:
        while True:
            message = channel.receive()
            if message["kind"] == "close":
                channel.send(_close(handler))
                # Nothing of ours is left to do; threads and extensions of the handler must not hold the exit up.
                _flush()
                os._exit(0)
            if message["kind"] == "rehearse":
                from modalbatch.runtime.rehearse import answer

                channel.send(answer(job, handler, message))
                continue
            channel.send(_run(job, handler, callers, progress, _task(message)))


def _task(message: Json) -> Task:
    return Task(
        split=Split.from_text(message["split"]),
        part_path=Path(message["part_path"]),
        dead_path=Path(message["dead_path"]),
        resume=Checkpoint(*message["resume"]),
        cuts=[(low, high, most) for low, high, most in message["cuts"]],
        poison={int(ordinal): Failure(*failure) for ordinal, failure in message["poison"].items()},
        suspects=frozenset(message["suspects"]),
        most=message["most"],
    )


def _run(job: Job, handler: Handler, callers: Callers, progress: Progress, task: Task) -> Json:
    run: SplitRun | None = None
    started = time.monotonic()
    try:
        run = _kind(task)(job, handler, callers, progress, task)
        return {"kind": "done", **run.run(), "seconds": time.monotonic() - started, "most": run.policy.most}
    except UsedSlot as used:
        assert run
        run.checkpoint(used.ordinal)
        return {"kind": "used"}
    except StoppedEarly:
        return {"kind": "stopped"}
    except FailedRecord as failed:
        # The record itself may be of any size.
        return {"kind": "record_failed", "letter": {name: failed.letter[name] for name in ("uri", "position", "error")}}
    except ModalbatchError as error:
        return {"kind": "failed", "error": type(error).__name__, "message": error.message, "hint": error.hint}
    except OSError as error:  # the disk's failure, never a record's
        ours = unavailable(error, "write", task.part_path.parent)
        return {"kind": "failed", "error": type(ours).__name__, "message": ours.message, "hint": ours.hint}
    except Exception as error:  # a bug of ours: said once, instead of a slot that dies again and again
        message = f"{describe(error)['traceback']}"
        return {"kind": "failed", "error": "InternalError", "message": message, "hint": "please report this"}
    finally:
        handler.is_used = True
        _flush()


def _flush() -> None:
    """What the handler has printed; it may have closed or replaced the streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _kind(task: Task) -> type[SplitRun]:
    if not task.split.retry:
        return SplitRun
    from modalbatch.runtime.again_run import AgainRun

    return AgainRun


def _close(handler: Handler) -> Json:
    try:
        handler.close()
    except Exception as error:
        return {"kind": "closed", "error": describe(error)}
    return {"kind": "closed", "error": None}


if __name__ == "__main__":
    main()
