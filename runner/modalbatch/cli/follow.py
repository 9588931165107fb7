"""The entry point of a generated app under `modal run`. Runs on: laptop. Does and prints what `apply` does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import modal

    from modalbatch.cli.operand import Target
    from modalbatch.engines.session import Session
    from modalbatch.job import Job


def follow(job: Mapping[str, Any], drive: modal.Function[..., Any, Any], spec_dir: Path) -> None:
    """Run the job of an app that `modal run` has started, and exit with the run's exit code.

    Raises:
        SystemExit: always.
    """
    import sys

    from modalbatch.cli import exit_code

    raise SystemExit(exit_code(lambda: _follow(job, drive, Path(spec_dir)), sys.argv[1:]))


def _follow(data: Mapping[str, Any], drive: modal.Function[..., Any, Any], spec_dir: Path) -> int:
    from modalbatch.cli.flow import Flow, Wish
    from modalbatch.cli.operand import reach
    from modalbatch.engines.process import ClientThread
    from modalbatch.job import Job
    from modalbatch.report.console import Console

    job = Job.from_json(dict(data))
    target = _target(job, spec_dir)
    session = _session(job, target.state_path)
    with Console() as console, reach(target, engine=session.kind):
        # Whoever types `modal run` wants it to run.
        flow = Flow(
            target=target,
            session=session,
            client=ClientThread(drive),
            wish=Wish(yes=True),
            console=console,
            app=None,
        )
        return flow.run()


def _target(job: Job, spec_dir: Path) -> Target:
    from modalbatch.cli.operand import Target
    from modalbatch.compiler.state import state_dir
    from modalbatch.fingerprint import fingerprint, hash_code
    from modalbatch.records import actual_uri

    roots = {"": f"{spec_dir}/"}
    return Target(
        spec_path=_spec_path(job, spec_dir),
        spec_dir=spec_dir,
        job=job,
        state_path=state_dir(spec_dir),
        fingerprint=fingerprint(job, hash_code(job.modules, [spec_dir])),
        roots=roots,
        sink_uri=actual_uri(job.sink.uri, roots),
    )


def _spec_path(job: Job, spec_dir: Path) -> Path:
    """The spec that the app was made from, as well as its folder tells."""
    from modalbatch.errors import ModalbatchError
    from modalbatch.spec import load_spec

    for path in sorted(spec_dir.glob("*.yaml")):
        try:
            if load_spec(path).tree.get("name") == job.name:
                return path
        except ModalbatchError:
            continue
    return spec_dir / f"{job.name}.yaml"


def _session(job: Job, state: Path) -> Session:
    from modalbatch.engines.choose import choose_engine
    from modalbatch.engines.session import Session, modal_session

    engine_id = os.environ.get("MODALBATCH_LOCAL_ENGINE")
    if engine_id is None:
        return modal_session(choose_engine("modal", os.environ), containers=None, environment=job.environment)
    return Session(
        kind="local",
        environ={},
        facts={"kind": "local", "id": engine_id, "home": (state / "home_id").read_text().strip()},
        containers=len(os.sched_getaffinity(0)),
        label="local",
    )
