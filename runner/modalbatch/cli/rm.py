"""`rm`: what modalbatch wrote into a sink, deleted. Runs on: laptop.

Owns showing how much that is, and asking. Refuses to touch an object whose name is not exactly ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from modalbatch.canonical import Json
from modalbatch.cli import json_option, print_json
from modalbatch.cli.operand import Found, Target, find_target, opened, shown
from modalbatch.cli.runs import local_engine, run_state
from modalbatch.driver.runs import list_runs
from modalbatch.errors import BusyError, UsageError
from modalbatch.names import CONTROL, is_ours
from modalbatch.report.text import count, quantity
from modalbatch.sinks.objects import ObjectSink

#: The longest that an attempt of any job can take, where the job is not known (Modal's limit).
_MOST_TIMEOUT_S = 86400.0


@click.command("rm")
@click.argument("operand", metavar="[OPERAND]", required=False)
@click.option("--orphans", is_flag=True, help="Only what no run can count on any more; the live output stays.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def command(operand: str | None, orphans: bool, yes: bool, as_json: bool) -> int:
    """Delete what modalbatch wrote into OPERAND (a spec, a sink, a job or a run; default: the last run here).

    Input, and files of others in the sink, are never touched.
    """
    found = find_target(operand)
    with opened(found) as sink:
        return _orphans(found, sink, yes, as_json) if orphans else _all(found, sink, yes, as_json)


def _all(found: Found, sink: ObjectSink, yes: bool, as_json: bool) -> int:
    from modalbatch.driver.inventory import delete_all, take_inventory

    place, held = shown(found.sink_uri), take_inventory(sink)
    open_runs = [run for run in list_runs(sink) if not run["end"]]
    _refuse_running(found, open_runs)
    if not as_json:
        parts = count(held.n_objects["parts"], "part")
        sys.stderr.write(f"{place}: {count(held.n_ours, 'object')}, {quantity(held.n_bytes)}, {parts} among them\n")
        if held.n_foreign:
            sys.stderr.write(f"{count(held.n_foreign, 'object')} of others in there will stay\n")
        if open_runs:
            sys.stderr.write(f"the run `{open_runs[-1]['run_id']}` has not ended: if it still runs, cancel it first\n")
    _confirm(f"delete {count(held.n_ours, 'object')} of `{place}`?", yes, as_json)
    n_deleted = delete_all(sink)
    if "://" not in found.sink_uri:
        sink.store.sweep_unfinished(0.0, is_ours)
        _remove_empty_folders(Path(found.sink_uri) / CONTROL)
    facts = {"deleted": n_deleted, "bytes": held.n_bytes, "foreign": held.n_foreign}
    _tell(facts, f"deleted {count(n_deleted, 'object')}, {quantity(held.n_bytes)}", as_json)
    return 0


def _refuse_running(found: Found, open_runs: list[Json]) -> None:
    """Raise for a run that is known to go on: it would write into what is being deleted."""
    here = local_engine(found.state_path)
    running = next((run["run_id"] for run in open_runs if run_state(run, here) == "running"), None)
    if running:
        raise BusyError(f"the run `{running}` is active; nothing was deleted", hint=f"modalbatch cancel {running}")


def _orphans(found: Found, sink: ObjectSink, yes: bool, as_json: bool) -> int:
    from modalbatch.driver.sweep import DEADLINE_TIMEOUTS, sweep

    timeout_s = float(found.job.compute.timeout_s) if isinstance(found, Target) else _MOST_TIMEOUT_S
    manifest, place = sink.newest(), shown(found.sink_uri)
    rehearsal = _Rehearsal(sink)
    sweep(rehearsal, manifest, timeout_s=timeout_s)
    names = list(dict.fromkeys(rehearsal.names))
    n_bytes = sum(entry.size_bytes for name in names if (entry := sink.store.stat(name)))
    if not names:
        _tell({"deleted": 0, "bytes": 0}, f"{place}: no orphans older than {DEADLINE_TIMEOUTS} timeouts", as_json)
        return 0
    if not as_json:
        sys.stderr.write(f"{place}: {count(len(names), 'orphan')}, {quantity(n_bytes)}\n")
    _confirm(f"delete {count(len(names), 'orphan')} of `{place}`?", yes, as_json)
    n_deleted = sweep(sink, manifest, timeout_s=timeout_s)
    _tell({"deleted": n_deleted, "bytes": n_bytes}, f"deleted {count(n_deleted, 'object')}", as_json)
    return 0


class _Rehearsal(ObjectSink):
    """A sink that notes what would be deleted."""

    def __init__(self, sink: ObjectSink) -> None:
        super().__init__(sink.store)
        self.names: list[str] = []

    def delete(self, names: Iterable[str]) -> None:
        self.names += names


def _confirm(question: str, yes: bool, as_json: bool) -> None:
    """Raise unless a person, or `--yes`, says so."""
    if yes:
        return
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nothing was deleted: this needs `--yes` without a terminal", hint="add --yes")
    if not click.confirm(question, default=False, err=True):
        raise UsageError("nothing was deleted")


def _tell(facts: Json, sentence: str, as_json: bool) -> None:
    if as_json:
        print_json({"ok": True, **facts})
    else:
        sys.stderr.write(f"{sentence}\n")


def _remove_empty_folders(root: Path) -> None:
    """Remove our own folders of a local sink where nothing is left in them; the sink's folder stays."""
    for folder, _, _ in os.walk(root, topdown=False):
        try:
            Path(folder).rmdir()
        except OSError:  # somebody else's file is in there
            continue
