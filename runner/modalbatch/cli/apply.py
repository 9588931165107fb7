"""`apply`: do what is missing. Runs on: laptop. Starts engine and client, then follows the flow of one run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modalbatch.cli import json_option, print_json
from modalbatch.errors import UsageError
from modalbatch.job import Job

if TYPE_CHECKING:
    from modalbatch.cli.flow import Flow, Wish
    from modalbatch.cli.operand import Target

_RUN_OPTIONS = (
    click.option("--engine", metavar="local|modal", help="Where containers run; else MODALBATCH_ENGINE, token, local."),
    click.option("--containers", type=click.IntRange(min=1), metavar="N", help="At most so many worker containers."),
    click.option("--detach", is_flag=True, help="Start on Modal, and return."),
    click.option("--adopt", is_flag=True, help="Take over a sink of another job or environment."),
    click.option("--force", is_flag=True, help="Start even while another run of this job is active."),
    click.option("--chaos", metavar="FAULTS", help="Rehearse with faults, local only: preempt=2%,crash=1%,seed=7."),
    click.option("--verbose", is_flag=True, help="Show what containers print."),
    click.option("-e", "--env", "environment", metavar="NAME", help="Modal environment."),
    json_option,
)


def run_options(command: Callable[..., int]) -> Callable[..., int]:
    """The options of every verb that starts a run; `conduct` takes what they say."""
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


@click.command("apply")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Ask nothing: run, and redo what changed code or image made old.")
@click.option("--keep", is_flag=True, help="Keep results of earlier code and image.")
@click.option("--redo", is_flag=True, help="Do again what earlier code or image did.")
@click.option("--into-existing", is_flag=True, help="Write beside data that is not of modalbatch.")
@run_options
def command(spec: Path, *, yes: bool, keep: bool, redo: bool, into_existing: bool, **options: Any) -> int:
    """Do what is missing of SPEC: plan, run, follow, publish.

    After a crash it continues, after new input it does the new input, after nothing changed it does nothing.
    """
    from modalbatch.cli.flow import Flow, Wish
    from modalbatch.cli.operand import load_target

    if keep and redo:
        raise UsageError("`--keep` and `--redo` exclude each other")
    wish = Wish(keep=keep, redo=redo, yes=yes, into_existing=into_existing)
    return conduct(Flow, lambda: load_target(spec), wish, **options)


def conduct(
    kind: type[Flow],
    find: Callable[[], Target],
    wish: Wish,
    *,
    engine: str | None,
    containers: int | None,
    environment: str | None,
    chaos: str | None,
    as_json: bool,
    **wishes: Any,
) -> int:
    """One run of the job that `find` gives, in a flow of this kind; the exit code. Prints the result of `--json`."""
    from modalbatch.cli.operand import reach
    from modalbatch.compiler.emit import write_app
    from modalbatch.engines.choose import choose_engine
    from modalbatch.engines.process import ClientProcess
    from modalbatch.engines.session import open_session
    from modalbatch.report.console import Console

    choice = choose_engine(engine, os.environ)
    if wishes["detach"] and choice.kind == "local":
        raise UsageError("the local engine ends with its command: `--detach` needs Modal", hint="--engine modal")
    if chaos is not None and choice.kind != "local":
        raise UsageError("`--chaos` is the local engine's: Modal takes no requests for faults", hint="--engine local")
    target, wish = find(), replace(wish, **wishes)
    with ExitStack() as stack:
        session = stack.enter_context(
            open_session(
                choice,
                target.state_path,
                containers=containers,
                environment=environment or target.job.environment,
                chaos=chaos,
                tell=lambda text: click.echo(text, err=True),
            )
        )
        client = stack.enter_context(ClientProcess(session.environ, owns_app=session.kind == "local"))
        app = write_app(_capped(target.job, containers), target.spec_path)
        console = stack.enter_context(Console(as_json=as_json, verbose=wish.verbose))
        stack.enter_context(reach(target, engine=session.kind))
        flow = kind(target=target, session=session, client=client, wish=wish, console=console, app=str(app))
        code = flow.run()
    if as_json:
        print_json({"ok": code == 0, **flow.result})
    return code


def _capped(job: Job, containers: int | None) -> Job:
    """The job as its app says it: not part of what decides its data."""
    if containers is None:
        return job
    most = min(containers, job.compute.max_containers)
    least = min(job.compute.min_containers, most)
    return replace(job, compute=replace(job.compute, max_containers=most, min_containers=least))
