"""`test`: a dead letter's record once more, to see what its handler does now. Runs on: laptop. Never writes to a sink.

The record goes through the app, in a container of the local engine: interpreter, packages, secrets and volumes are
those of a run.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from modalbatch.cli import json_option, print_json
from modalbatch.cli.operand import Target, find_target, opened
from modalbatch.errors import UsageError

if TYPE_CHECKING:
    from modalbatch.canonical import Json
    from modalbatch.job import Job

#: Seconds that a person may look around: as long as Modal lets a container work.
_DEBUG_S = 86_400


@click.command("test")
@click.argument("operand", metavar="SPEC")
@click.option("--dead", "wanted", metavar="ID|SIG", required=True, help="A dead letter, or the first one of a kind.")
@click.option("--pdb", "debug", is_flag=True, help="Open a debugger where the handler raises.")
@json_option
def command(operand: str, wanted: str, *, debug: bool, as_json: bool) -> int:
    """Try the record of a dead letter again with the handler of SPEC as it is now; exit 0 if it succeeds, 1 if not.

    It runs once, in the image's environment on this machine. The sink stays as it is.
    """
    from modalbatch.sinks.letter import has_record

    target = find_target(operand)
    if not isinstance(target, Target):
        raise UsageError("a test needs a spec, not a sink", hint=f"modalbatch test SPEC --dead {wanted}")
    terminal = _terminal() if debug else ""
    letter = _find_letter(target, wanted)
    if not has_record(letter):
        raise UsageError(
            f"`{letter['id']}` has no record: {letter['error']['message']}", hint=f"look at `{letter['uri']}` itself"
        )
    with _kept_terminal() if debug else contextlib.nullcontext():
        answer = _rehearse(target, letter, terminal)
    if as_json:
        error = answer["error"]
        print_json({"ok": answer["ok"], "id": letter["id"], "results": answer["results"].splitlines(), "error": error})
    else:
        _print(letter, answer, has_seen=debug)
    return 0 if answer["ok"] else 1


def _terminal() -> str:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("`--pdb` needs a terminal", hint="without it the traceback is printed")
    return os.ttyname(sys.stdin.fileno())


@contextlib.contextmanager
def _kept_terminal() -> Iterator[None]:
    """Leave the terminal as it was, however a debugger ended."""
    import termios

    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _find_letter(target: Target, wanted: str) -> Json:
    """The letter of that id, else the first one of that kind."""
    from modalbatch.cli.cat import dead_letters
    from modalbatch.sinks.letter import failing

    with opened(target) as sink:
        first = None
        for letter in dead_letters(sink):
            if letter["id"] == wanted:
                return letter
            if first is None and failing(letter).signature == wanted:
                first = letter
    if first is None:
        raise UsageError(f"there is no dead letter `{wanted}`, and none of that kind", hint="modalbatch errors")
    return first


def _rehearse(target: Target, letter: Json, terminal: str) -> Json:
    """What the worker's slot says of the record."""
    from modalbatch.compiler.emit import write_app
    from modalbatch.compiler.state import default_path
    from modalbatch.engines.choose import choose_engine
    from modalbatch.engines.process import ClientProcess
    from modalbatch.engines.session import open_session
    from modalbatch.runtime.rehearse import rehearsal

    job = _for_one(target.job, is_debugged=bool(terminal))
    path = default_path(target.spec_dir, job.name)
    app = write_app(job, target.spec_path, path.with_name(f"test_{path.name}"))
    with ExitStack() as stack:
        session = stack.enter_context(
            open_session(
                choose_engine("local", os.environ),
                target.state_path,
                containers=1,
                environment=job.environment,
                tell=lambda text: click.echo(text, err=True),
            )
        )
        client = stack.enter_context(ClientProcess(session.environ, owns_app=True))
        client.send(do="open", app=str(app), environment=session.environment, detach=False)
        client.send(do="rehearse", text=rehearsal(letter, terminal))
        for event in client.events():
            if event and event["event"] == "answer":
                return event
        raise client.died()


def _for_one(job: Job, *, is_debugged: bool) -> Job:
    """The job with one container for one record; what decides its data is the same."""
    compute = replace(job.compute, max_containers=1, min_containers=0, buffer_containers=0)
    if is_debugged:
        compute = replace(compute, timeout_s=_DEBUG_S)
    return replace(job, compute=compute, handler=replace(job.handler, slots=1))


def _print(letter: Json, answer: Json, *, has_seen: bool) -> None:
    sys.stderr.write(answer["said"])
    sys.stdout.write(answer["results"])
    sys.stdout.flush()
    if answer["ok"]:
        what = "succeeds" if answer["results"] else "is filtered: the handler gives no record"
        sys.stderr.write(f"{letter['id']} {what} now\n")
        return
    error = answer["error"]
    if not has_seen:
        sys.stderr.write(error["traceback"])
    sys.stderr.write(f"{letter['id']} still fails: {error['type']}: {error['message']}\n")
