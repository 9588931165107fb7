"""`status`: how far a run is, and with `--follow` until its end. Runs on: laptop."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from modalbatch.canonical import Json
from modalbatch.cli import json_option, print_json
from modalbatch.cli.operand import Found, Target, find_target, opened, reach, shown
from modalbatch.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from modalbatch.engines.session import Session
    from modalbatch.sinks.objects import ObjectSink


@click.command("status")
@click.argument("operand", metavar="[RUN]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Follow the run until it ends; the exit code is the run's.")
@json_option
def command(operand: str | None, follow: bool, as_json: bool) -> int:
    """Show how far RUN is (a run, a job, a spec or a sink; default: the last run here)."""
    from modalbatch.cli.runs import local_engine, run_state

    found = find_target(operand)
    with opened_for_runs(found) as sink:
        run = choose_run(found, sink, operand)
        state = run_state(run, local_engine(found.state_path))
        is_over = state not in ("running", "open")
        if follow and not is_over:
            return _follow(found, run, as_json=as_json)
        code = _code(run) if follow else 0
        progress = None if is_over else _progress(found, run)
        if as_json:
            print_json({"ok": code == 0, "state": state, **run, "progress": progress})
        else:
            sys.stdout.write("\n".join(_lines(run, state, progress, shown(found.sink_uri))) + "\n")
    return code


def _code(run: Json) -> int:
    """The exit code of a run that is over."""
    return int(run["end"]["exit_code"]) if run["end"] else UnavailableError.exit_code


@contextmanager
def opened_for_runs(found: Found) -> Iterator[ObjectSink]:
    """The sink that knows the runs: of a run on Modal whose local sink is a mirror, the one on the Volume."""
    from modalbatch.engines.staging import is_local, sink_roots
    from modalbatch.sinks import open_sink

    note = found.note
    is_away = note is not None and note.engine.get("kind") == "modal" and is_local(note.sink)
    if is_away and isinstance(found, Target):
        with reach(found, engine="modal"):
            yield open_sink(found.job, {**found.roots, **sink_roots(found.job)})
    else:
        with opened(found) as sink:
            yield sink


def choose_run(found: Found, sink: ObjectSink, operand: str | None) -> Json:
    """The run that an operand means: itself, else the newest of the sink.

    One that was started here and whose driver has not written anything yet, because its container is still on its way,
    is what the note of it says.

    Raises:
        UsageError: nobody knows a run.
    """
    from modalbatch.driver.runs import list_runs, read_run

    note = found.note if found.note and operand in (None, found.note.run_id) else None
    run_id = note.run_id if note else None
    run = read_run(sink, run_id) if run_id else next(iter(reversed(list(list_runs(sink)))), None)
    if run is None and note and note.engine.get("call_id"):
        started = round(note.started, 3)
        return {"run_id": run_id, "name": note.name, "engine": note.engine, "user": "", "started": started, "end": None}
    if run is None:
        what = f"run {run_id} has not begun" if run_id else "no run has begun"
        raise UsageError(f"{what} in `{shown(found.sink_uri)}`", hint="`modalbatch runs` lists what there is")
    return run


def _session(found: Found, run: Json, stack: ExitStack) -> Session:
    from modalbatch.engines.choose import choose_engine
    from modalbatch.engines.session import open_session

    engine = run["engine"]
    choice = choose_engine(engine.get("kind") or None, os.environ)
    environment = engine.get("environment") or None
    return stack.enter_context(open_session(choice, found.state_path, containers=None, environment=environment))


def _follow(found: Found, run: Json, *, as_json: bool) -> int:
    from modalbatch.cli.flow import Flow, Wish
    from modalbatch.engines.process import ClientProcess
    from modalbatch.report.console import Console

    if not isinstance(found, Target):
        raise UsageError("following a run needs its spec", hint="modalbatch status --follow SPEC")
    with ExitStack() as stack:
        session = _session(found, run, stack)
        client = stack.enter_context(ClientProcess(session.environ))
        console = stack.enter_context(Console(as_json=as_json))
        flow = Flow(target=found, session=session, client=client, wish=Wish(), console=console, app=None)
        code = flow.attach(run["run_id"])
    if as_json:
        print_json({"ok": code == 0, **flow.result})
    return code


def _progress(found: Found, run: Json) -> Json | None:
    """What the run told last, if it tells anything."""
    from modalbatch.engines.process import ClientProcess

    with ExitStack() as stack:
        session = _session(found, run, stack)
        client = stack.enter_context(ClientProcess(session.environ))
        order = {"name": run["name"], "environment": session.environment, "request": {"run_id": run["run_id"]}}
        client.send(do="progress", **order)
        return next((event for event in client.events() if event and event["event"] == "progress"), None)


def _lines(run: Json, state: str, progress: Json | None, sink: str) -> list[str]:
    from modalbatch.report import text

    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run["started"]))
    by = f" by {run['user']}" if run["user"] else ""
    lines = [
        f"run {run['run_id']} of {run['name']}: {state}",
        f"started {started}{by} on {run['engine']['kind']}, {sink}",
    ]
    if progress:
        lines.append(text.progress_line(progress, None, None))
    if run["end"]:
        lines += text.outcome_lines(run["end"], None, sink)
        error = run["end"]["error"]
        lines += [f"error: {error['message']}"] if error else []
    if state == "died":
        lines.append("what is done stays done; `modalbatch apply` again continues")
    return lines
