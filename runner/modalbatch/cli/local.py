"""`local`: any command against the local engine. Runs on: laptop."""

from __future__ import annotations

import os
from pathlib import Path

import click

from modalbatch.errors import UsageError


@click.command("local", context_settings={"ignore_unknown_options": True})
@click.option("--containers", type=click.IntRange(min=1), metavar="N", help="Containers per function.")
@click.option("--chaos", metavar="FAULTS", help="Faults to inject, say preempt=2%,crash=1%,seed=7.")
@click.option("--prune", is_flag=True, help="Free disk space of engines that have ended, and run nothing.")
@click.argument("words", nargs=-1, metavar="-- COMMAND [ARG]...", type=click.UNPROCESSED)
def command(words: tuple[str, ...], containers: int | None, chaos: str | None, *, prune: bool) -> int:
    """Run COMMAND, say `modal run app.py`, with the local engine in the place of Modal.

    The exit code is the command's own. --chaos knows preempt, crash, hang, lost-reply, slow and duplicate, each with
    the share of inputs or replies that it hits, `delay=500ms` for slow, and `seed=N` to hit the same ones again;
    MODALBATCH_CHAOS says the same to every command.

    With --prune: removes environments and files of images that were not used for 30 days, old logs, payloads and
    uploaded code that nothing needs; never volumes, dicts, queues, secrets or results.
    """
    from modalbatch.compiler.state import state_dir
    from modalbatch.engines.local import run_command

    if bool(words) == prune:
        raise UsageError("`local` needs a command or `--prune`", hint="modalbatch local -- modal run app.py")
    state = state_dir(Path.cwd())
    if prune:
        return _prune(state)
    os.environ["MODALBATCH_HOME"] = str(state)  # an app elsewhere means this engine's state
    return run_command(state, list(words), containers=containers, chaos=chaos, tell=_tell)


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _prune(home: Path) -> int:
    from modalbatch.engines.local.prune import free, pruning
    from modalbatch.report.text import quantity

    with pruning(home, os.environ) as wastes:
        for waste in wastes:
            click.echo(f"{waste.name}: {len(waste.paths)}, {quantity(waste.n_bytes)}")
        for waste in wastes:
            free(waste)
        click.echo(f"freed {quantity(sum(waste.n_bytes for waste in wastes))}")
    return 0
