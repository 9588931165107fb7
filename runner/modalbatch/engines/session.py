"""An engine in use: what a command tells the client process and the driver of it. Runs on: laptop.

Owns the difference between `local` and `modal`: which server, whose variables, how many containers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modalbatch.engines.choose import Choice, check_reachable
from modalbatch.engines.local import LocalEngine
from modalbatch.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One engine, ready to be talked to."""

    kind: str
    #: Environment of the client process.
    environ: dict[str, str]
    #: As in `driver.runs.Request.engine`.
    facts: dict[str, str]
    #: Containers that the machine or the command allows; None: as many as the spec says.
    containers: int | None
    #: The first words of the first line.
    label: str
    engine: LocalEngine | None = None
    #: Modal environment; None: the client's default.
    environment: str | None = field(default=None)

    def n_containers(self, job: Job) -> int:
        """How many workers there can be."""
        return min(job.compute.max_containers, self.containers or job.compute.max_containers)

    def header(self, job: Job, sink: str) -> str:
        """The first line of a command: where things run, and where results go."""
        n = self.n_containers(job)
        return f"{self.label} · {n} container{'s' * (n != 1)} · {sink}"

    def notes(self) -> list[str]:
        """What a person must know about the engine."""
        return self.engine.notes if self.engine else []


@contextmanager
def open_session(
    choice: Choice,
    state: Path,
    *,
    containers: int | None,
    environment: str | None,
    chaos: str | None = None,
    tell: Callable[[str], object] = lambda _text: None,
) -> Iterator[Session]:
    """The engine of a choice. The local one is started, or joined, and let go at the end.

    `environment`: of Modal, as the command or the spec says; None where neither does. `chaos`: faults that the local
    engine injects. `tell` gets what is to be
    said when everything has ended.
    """
    if choice.kind == "local":
        with LocalEngine(state, containers=containers, chaos=chaos) as engine:
            clean = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
            yield Session(
                kind="local",
                environ=clean | engine.environ(),
                facts={"kind": "local", "id": engine.engine_id, "home": engine.home_id},
                containers=containers or len(os.sched_getaffinity(0)),
                label="local",
                engine=engine,
            )
        if engine.summary:
            tell(engine.summary)
        return
    check_reachable(choice, os.environ)
    yield modal_session(choice, containers=containers, environment=environment)


def modal_session(choice: Choice, *, containers: int | None, environment: str | None) -> Session:
    """Modal, as the client's own settings say it is reached."""
    named = environment or choice.environment
    label = ["modal", f"workspace {choice.workspace}" * bool(choice.workspace), f"environment {named or 'main'}"]
    environ = {name: value for name, value in os.environ.items() if name != "MODALBATCH_LOCAL_ENGINE"}
    return Session(
        kind="modal",
        environ=environ,
        facts={"kind": "modal", "environment": named},
        containers=containers,
        label=" · ".join(filter(None, label)),
        environment=named or None,
    )
