"""One record of a dead letter, tried once for a person who watches. Runs on: container.

Owns the try in a slot: the handler as it was constructed there, one call without retries, and a debugger where it fails
if a terminal is given. Writes nothing to the sink.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from modalbatch.canonical import encode
from modalbatch.formats import open_format
from modalbatch.job import Job
from modalbatch.runtime.attempts import is_of_record
from modalbatch.runtime.handler import Handler, describe, user_frames

if TYPE_CHECKING:
    from modalbatch.runtime.child import Child, Seat

Json = dict[str, Any]

#: How a text that asks for this begins, instead of a split.
_BEGIN = '{"rehearse":'
#: Of what the handler prints, the last so many bytes are told.
MAX_SAID_BYTES = 64 << 10


def rehearsal(letter: Mapping[str, Any], terminal: str = "") -> str:
    """The text for `Worker.process`; `terminal`: path of a terminal on the worker's machine, for a debugger."""
    return encode({"rehearse": {"letter": letter, "terminal": terminal}})


def is_rehearsal(text: str) -> bool:
    """Whether a text asks for this."""
    return text.startswith(_BEGIN)


def rehearse(job: Job, seat: Seat, text: str) -> Json:
    """The worker's side: `ok`, the `results` as lines, what was `said`, and what was raised as `error`."""
    asked = json.loads(text)["rehearse"]
    child = seat.child()
    if not child.ready(seat.start_timeout_s):
        return {"ok": False, "results": "", "said": "", "error": child.start_error}
    child.send({"kind": "rehearse", **asked})
    timeout_s = job.handler.timeout_s or float(job.compute.timeout_s)
    answer = _wait(child) if asked["terminal"] else child.receive(timeout_s)
    if answer is not None:
        return answer
    if child.is_dead():
        how = {"type": "crash", "message": f"the slot ended with {child.exit_text()}", "traceback": ""}
    else:
        how = {"type": "timeout", "message": f"the call did not return within {timeout_s:g} s", "traceback": ""}
    seat.vacate()
    return {"ok": False, "results": "", "said": "", "error": how}


def _wait(child: Child) -> Json | None:
    """The answer of a slot in which a person looks around."""
    while not child.is_dead():
        if (answer := child.receive(60.0)) is not None:
            return answer
    return None


def answer(job: Job, handler: Handler, message: Mapping[str, Any]) -> Json:
    """The slot's side."""
    with tempfile.TemporaryFile() as said:
        terminal = os.open(message["terminal"], os.O_RDWR | os.O_NOCTTY) if message["terminal"] else -1
        results, error = "", None
        with _outputs(terminal if terminal >= 0 else said.fileno(), has_input=terminal >= 0):
            try:
                results = _results(job, handler, message["letter"])
            except BaseException as raised:
                if not is_of_record(raised):
                    raise
                error = describe(raised)
                if isinstance(raised, _Undecodable):
                    error = {"type": "undecodable", "message": str(raised), "traceback": ""}
                elif terminal >= 0:
                    _debug(raised, error)
        if terminal >= 0:
            os.close(terminal)
        said.seek(max(0, said.seek(0, os.SEEK_END) - MAX_SAID_BYTES))
        text = said.read().decode(errors="replace")
    return {"kind": "rehearsed", "ok": error is None, "results": results, "said": text, "error": error}


def _results(job: Job, handler: Handler, letter: Mapping[str, Any]) -> str:
    """The output records, one a line; empty where the handler filters the record.

    Raises:
        _Undecodable: the bytes are no record.
        Exception: what the handler raises; TypeError or ValueError for a result that cannot be written.
    """
    record = letter["record"] if "record" in letter else _decoded(job, letter["raw_base64"])
    given = json.loads(encode(record))  # the handler may change it
    if handler.is_async:
        import asyncio

        (result,) = asyncio.run(handler.call_async([given]))
    else:
        (result,) = handler.call([given])
    if isinstance(result, Exception):
        raise result
    lines, write = bytearray(), open_format(job.sink.format).encoder()
    for one in [] if result is None else [result] if isinstance(result, dict) else result:
        write({**{name: record[name] for name in job.handler.keep if name in record}, **one}, lines)
    return lines.decode()


def _decoded(job: Job, raw_base64: str) -> Any:
    try:
        return open_format(job.source.format).decoder()(base64.b64decode(raw_base64))
    except ValueError as error:
        raise _Undecodable(str(error)) from None


class _Undecodable(Exception):
    pass


def _debug(raised: BaseException, error: Mapping[str, str]) -> None:
    import pdb  # it is what was asked for

    sys.stdout.write(error["traceback"])
    pdb.post_mortem(user_frames(raised.__traceback__))


@contextlib.contextmanager
def _outputs(fd: int, *, has_input: bool) -> Iterator[None]:
    """What is printed here, and by whatever the handler starts, goes to `fd`."""
    targets = (0, 1, 2) if has_input else (1, 2)
    before = {target: os.dup(target) for target in targets}
    _flush()
    for target in targets:
        os.dup2(fd, target)
    try:
        yield
    finally:
        _flush()
        for target, old in before.items():
            os.dup2(old, target)
            os.close(old)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
