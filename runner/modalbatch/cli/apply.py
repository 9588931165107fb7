"""`apply`: do what is missing. Runs on: laptop. Starts engine and client, then follows the flow of one run."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from modalbatch.cli import json_option, print_json
from modalbatch.errors import UsageError
from modalbatch.job import Job


@click.command("apply")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--engine", metavar="local|modal", help="Where containers run; else MODALBATCH_ENGINE, a token, local.")
@click.option("--containers", type=click.IntRange(min=1), metavar="N", help="At most so many worker containers.")
@click.option("--detach", is_flag=True, help="Start on Modal, and return.")
@click.option("--yes", is_flag=True, help="Ask nothing: run, and redo what changed code or image made old.")
@click.option("--keep", is_flag=True, help="Keep results of earlier code and image.")
@click.option("--redo", is_flag=True, help="Do again what earlier code or image did.")
@click.option("--into-existing", is_flag=True, help="Write beside data that is not of modalbatch.")
@click.option("--adopt", is_flag=True, help="Take over a sink of another job or environment.")
@click.option("--force", is_flag=True, help="Start even while another run of this job is active.")
@click.option("--chaos", metavar="FAULTS", help="Rehearse with faults, local engine only: preempt=2%,crash=1%,seed=7.")
@click.option("--verbose", is_flag=True, help="Show what containers print.")
@click.option("-e", "--env", "environment", metavar="NAME", help="Modal environment.")
@json_option
def command(
    spec: Path,
    *,
    engine: str | None,
    containers: int | None,
    environment: str | None,
    as_json: bool,
    detach: bool,
    yes: bool,
    keep: bool,
    redo: bool,
    into_existing: bool,
    adopt: bool,
    force: bool,
    chaos: str | None,
    verbose: bool,
) -> int:
    """Do what is missing of SPEC: plan, run, follow, publish.

    After a crash it continues, after new input it does the new input, after nothing changed it does nothing.
    """
    from modalbatch.cli.flow import Flow, Wish
    from modalbatch.cli.operand import load_target, reach
    from modalbatch.compiler.emit import write_app
    from modalbatch.engines.choose import choose_engine
    from modalbatch.engines.process import ClientProcess
    from modalbatch.engines.session import open_session
    from modalbatch.report.console import Console

    if keep and redo:
        raise UsageError("`--keep` and `--redo` exclude each other")
    choice = choose_engine(engine, os.environ)
    if detach and choice.kind == "local":
        raise UsageError("the local engine ends with its command: `--detach` needs Modal", hint="--engine modal")
    if chaos is not None and choice.kind != "local":
        raise UsageError("`--chaos` is the local engine's: Modal takes no requests for faults", hint="--engine local")
    target = load_target(spec)
    wish = Wish(
        keep=keep,
        redo=redo,
        yes=yes,
        force=force,
        into_existing=into_existing,
        adopt=adopt,
        detach=detach,
        verbose=verbose,
    )
    with ExitStack() as stack:
        named = environment or target.job.environment
        session = stack.enter_context(
            open_session(
                choice,
                target.state_path,
                containers=containers,
                environment=named,
                chaos=chaos,
                tell=lambda text: click.echo(text, err=True),
            )
        )
        client = stack.enter_context(ClientProcess(session.environ, owns_app=session.kind == "local"))
        app = write_app(_capped(target.job, containers), target.spec_path)
        console = stack.enter_context(Console(as_json=as_json, verbose=verbose))
        stack.enter_context(reach(target, engine=session.kind))
        flow = Flow(target=target, session=session, client=client, wish=wish, console=console, app=str(app))
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
