"""`cancel`: ask a run to stop, from any machine that reaches its sink. Runs on: laptop."""

from __future__ import annotations

import sys

import click

from modalbatch.cli import json_option, print_json
from modalbatch.cli.operand import find_target
from modalbatch.cli.status import choose_run, opened_for_runs


@click.command("cancel")
@click.argument("operand", metavar="[RUN]", required=False)
@json_option
def command(operand: str | None, as_json: bool) -> None:
    """Stop RUN (a run, a job, a spec or a sink; default: the last run here): nothing new starts, what runs may finish.

    What is done stays done; `apply` again continues.
    """
    from modalbatch.driver.runs import ask_to_stop

    found = find_target(operand)
    with opened_for_runs(found) as sink:
        run = choose_run(found, sink, operand)
        is_over = run["end"] is not None
        if not is_over:
            ask_to_stop(sink, run["run_id"], "cancel")
    if as_json:
        print_json({"ok": True, "run_id": run["run_id"], "asked": not is_over})
    elif is_over:
        sys.stderr.write(f"run {run['run_id']} has ended already: {run['end']['status']}\n")
    else:
        sys.stderr.write(f"run {run['run_id']} is asked to stop; what is running may finish\n")
