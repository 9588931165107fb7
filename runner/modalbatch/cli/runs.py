"""`runs`: every run of a sink, from any machine that reaches it. Runs on: laptop."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from modalbatch.canonical import Json
from modalbatch.cli import json_option, print_json
from modalbatch.cli.operand import find_target, opened

_COLUMNS = ("run", "started", "user", "engine", "state", "in", "out", "dead")


@click.command("runs")
@click.argument("operand", metavar="[OPERAND]", required=False)
@json_option
def command(operand: str | None, as_json: bool) -> None:
    """List the runs of OPERAND (a spec, a sink, a job or a run; default: the last run here), the newest last."""
    from modalbatch.driver.runs import list_runs

    found = find_target(operand)
    with opened(found) as sink:
        known = sorted(list_runs(sink), key=lambda run: (float(run["started"]), str(run["run_id"])))
    here = local_engine(found.state_path)
    rows = [{"state": run_state(run, here), **run} for run in known]
    if as_json:
        print_json({"ok": True, "runs": rows})
        return
    table = [_row(run) for run in rows]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *table, strict=True)]
    # The head is for people: a pipe gets the rows alone.
    sys.stderr.write(_line(_COLUMNS, widths))
    sys.stderr.flush()
    sys.stdout.writelines(_line(row, widths) for row in table)


def local_engine(state: Path) -> dict[str, str]:
    """The local engine of this machine: `home`, and its `id` while it runs; empty where none ever ran."""
    try:
        home = (state / "home_id").read_text().strip()
        with (state / "engine.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # the engine holds it as long as it lives
                return {"home": home, "id": str(json.loads((state / "engine.json").read_text())["engine_id"])}
        return {"home": home, "id": ""}
    except (OSError, ValueError, KeyError):
        return {}


def run_state(run: Mapping[str, Any], here: Mapping[str, str]) -> str:
    """`done`, `failed`, `stopped`, `running`, `died`; `open` where only another machine or Modal knows more.

    `here`: `local_engine` of this machine. Attempts and drivers end with their engine.
    """
    if run["end"]:
        return str(run["end"]["status"])
    engine = run["engine"]
    if engine.get("kind") == "local" and here and engine.get("home") == here["home"]:
        return "running" if engine.get("id") == here["id"] else "died"
    return "open"


def _row(run: Json) -> tuple[str, ...]:
    counts = (run["end"] or {}).get("counts") or {}
    return (
        str(run["run_id"]),
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run["started"])),
        str(run["user"] or "-"),
        str(run["engine"].get("kind") or "-"),
        str(run["state"]),
        *(str(counts.get(name, "-")) for name in ("in", "out", "dead")),
    )


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"
