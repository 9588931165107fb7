"""`logs`: what the containers of a run printed. Runs on: laptop.

The local engine keeps logs in its home; on Modal `modal app logs` reads them, as long as Modal keeps them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from modalbatch.canonical import Json
from modalbatch.cli import json_option
from modalbatch.cli.operand import find_target
from modalbatch.cli.status import choose_run, opened_for_runs
from modalbatch.errors import UsageError


@click.command("logs")
@click.argument("operand", metavar="[RUN]", required=False)
@json_option
def command(operand: str | None, as_json: bool) -> int:
    """Print what the containers of RUN printed (a run, a job, a spec or a sink; default: the last run here)."""
    found = find_target(operand)
    with opened_for_runs(found) as sink:
        run = choose_run(found, sink, operand)
    app_id = run["engine"].get("app_id")
    if not app_id:
        raise UsageError(f"run {run['run_id']} does not say which app it was")
    if run["engine"]["kind"] == "modal":
        environ = {name: value for name, value in os.environ.items() if name != "MODALBATCH_LOCAL_ENGINE"}
        return subprocess.run(
            [sys.executable, "-m", "modal", "app", "logs", app_id], env=environ, check=False
        ).returncode
    path = found.state_path / "engine" / "logs" / f"{app_id}.log"
    if not path.exists():
        raise UsageError(f"run {run['run_id']} left no log on this machine: `{path}` does not exist")
    entries = _entries(path)
    for text in (json.dumps(item, ensure_ascii=False) + "\n" for item in entries) if as_json else whole_lines(entries):
        sys.stdout.write(text)
    return 0


def whole_lines(entries: Iterable[Json]) -> Iterator[str]:
    """The lines of all containers in the order in which they ended: none tears another's, which came in pieces."""
    begun: dict[tuple[str, str], str] = {}
    for item in entries:
        key = item["container"], item["source"]
        *lines, begun[key] = (begun.get(key, "") + item["text"]).split("\n")
        yield from (f"{line}\n" for line in lines)
    yield from (f"{rest}\n" for rest in begun.values() if rest)


def _entries(path: Path) -> Iterator[Json]:
    """Pieces of output in the order in which they came; lazy."""
    from modal_proto import api_pb2

    from modalbatch.engines.local.containers.log import AppLog

    names = {api_pb2.FILE_DESCRIPTOR_STDOUT: "stdout", api_pb2.FILE_DESCRIPTOR_STDERR: "stderr"}
    for batch in AppLog(path).read(0):
        for item in batch.items:
            yield {
                "at": round(item.timestamp, 3),
                "source": names.get(item.file_descriptor, "system"),
                "container": item.container_id,
                "text": item.data,
            }
