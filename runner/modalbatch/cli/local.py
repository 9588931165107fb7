"""`local`: any command against the local engine. Runs on: laptop."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command("local", context_settings={"ignore_unknown_options": True})
@click.option("--containers", type=click.IntRange(min=1), metavar="N", help="Containers per function.")
@click.option("--chaos", metavar="FAULTS", help="Faults to inject, say preempt=2%,crash=1%,seed=7.")
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND [ARG]...", type=click.UNPROCESSED)
def command(words: tuple[str, ...], containers: int | None, chaos: str | None) -> int:
    """Run COMMAND, say `modal run app.py`, with the local engine in the place of Modal.

    The exit code is the command's own. --chaos knows preempt, crash, hang, lost-reply, slow and duplicate, each with
    the share of inputs or replies that it hits, `delay=500ms` for slow, and `seed=N` to hit the same ones again;
    MODALBATCH_CHAOS says the same to every command.
    """
    from modalbatch.compiler.state import state_dir
    from modalbatch.engines.local import run_command

    state = state_dir(Path.cwd())
    os.environ["MODALBATCH_HOME"] = str(state)  # an app elsewhere means this engine's state
    return run_command(
        state, list(words), containers=containers, chaos=chaos, tell=lambda text: click.echo(text, err=True)
    )
