"""`plan`: what `apply` would do, and why. Runs on: laptop. Reads source and sink; writes nothing and runs nothing."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from modalbatch.canonical import Json
from modalbatch.cli import json_option, print_json
from modalbatch.cli.operand import Target, find_target, reach, shown
from modalbatch.errors import UsageError

if TYPE_CHECKING:
    from modalbatch.driver.runs import Request

_COLORS = {"+": "green", "~": "yellow", "-": "red"}
#: Exit code of `--detailed-exitcode` when there is work (`guarantees.md` section 6).
WORK = 4


@click.command("plan")
@click.argument("operand", metavar="[SPEC]", required=False)
@click.option("--engine", metavar="local|modal", help="Where apply would run (default: as for apply).")
@click.option("--keep", is_flag=True, help="Count results of an older handler as done.")
@click.option("--redo", is_flag=True, help="Count them as changed (the default).")
@click.option("--into-existing", is_flag=True, help="Accept a sink that already holds other data.")
@click.option("--adopt", is_flag=True, help="Accept a sink of another job.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 4 when there is work to do.")
@json_option
def command(  # noqa: PLR0917 click passes them by name
    operand: str | None,
    engine: str | None,
    keep: bool,
    redo: bool,
    into_existing: bool,
    adopt: bool,
    detailed_exitcode: bool,
    as_json: bool,
) -> int:
    """Show what apply would do for SPEC (or the job of that name): + new, ~ changed, = kept, - removed, and why."""
    from modalbatch.driver.runs import Request
    from modalbatch.engines.choose import choose_engine

    if keep and redo:
        raise UsageError("`--keep` and `--redo` exclude each other")
    target = find_target(operand)
    if not isinstance(target, Target):
        raise UsageError("a plan needs a spec, not a sink", hint="modalbatch plan SPEC")
    choice = choose_engine(engine, os.environ)
    request = Request(run_id="", roots=dict(target.roots), keep=keep, into_existing=into_existing, adopt=adopt)
    facts = make_facts(target, request, engine=choice.kind)
    if as_json:
        print_json({"ok": True, "engine": choice.kind, **facts})
    else:
        n = _n_containers(target, choice.kind)
        place = f"{choice.kind} · {n} container{'s' * (n != 1)} · {shown(target.sink_uri)}"
        sys.stderr.write(f"{place}\n")
        _print(facts)
    return WORK if detailed_exitcode and not facts["is_done"] else 0


def make_facts(target: Target, request: Request, *, engine: str | None = None) -> Json:
    """The plan of a job, made on this machine."""
    from modalbatch.driver.inspect import plan_facts
    from modalbatch.driver.reason import leaves
    from modalbatch.driver.rule import cut_job
    from modalbatch.sinks import live_parts
    from modalbatch.sources import open_source

    with reach(target, engine=engine):
        sink = target.open_sink()
        source = open_source(
            cut_job(target.job, sink.owner()),
            target.roots,
            identity_cache=str(target.state_path / "identities.db"),
            manifest_parts=live_parts,
        )
        decides = leaves(target.job, [target.spec_dir])
        return plan_facts(target.job, sink, source, target.fingerprint, decides, request=request)


def _print(facts: Json) -> None:
    from modalbatch.report.plan import plan_lines

    has_color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in plan_lines(facts):
        text = click.style(str(line), fg=_COLORS[line.symbol]) if has_color and line.symbol in _COLORS else str(line)
        sys.stdout.write(f"{text}\n")


def _n_containers(target: Target, engine: str) -> int:
    most = target.job.compute.max_containers
    return min(most, len(os.sched_getaffinity(0))) if engine == "local" else most
