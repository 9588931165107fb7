"""A verb that is answered by the app's `inspect`, next to the data. Runs on: laptop. Prints nothing."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict
from typing import cast

from modalbatch.canonical import Json
from modalbatch.cli.operand import Target
from modalbatch.compiler.emit import write_app
from modalbatch.driver.runs import Request
from modalbatch.engines.choose import choose_engine
from modalbatch.engines.process import ClientProcess
from modalbatch.engines.session import open_session
from modalbatch.engines.staging import sink_roots
from modalbatch.errors import ModalbatchError, UnavailableError


def ask_app(target: Target, verb: str, *, engine: str | None, **options: object) -> Json:
    """Start the job's app, ask it, and let it go; the verb's answer.

    Raises:
        ModalbatchError: what the app, or the way to it, says is wrong.
    """
    with ExitStack() as stack:
        choice, environment = choose_engine(engine, os.environ), target.job.environment
        session = stack.enter_context(open_session(choice, target.state_path, containers=None, environment=environment))
        client = stack.enter_context(ClientProcess(session.environ, owns_app=session.kind == "local"))
        app = write_app(target.job, target.spec_path)
        roots = dict(target.roots) if session.kind == "local" else sink_roots(target.job)
        client.send(do="open", app=str(app), environment=session.environment, detach=False)
        request = Request(run_id="", roots=roots, engine=session.facts)
        client.send(do="inspect", request={**asdict(request), "verb": verb, **options})
        for event in client.events():
            if event and event["event"] == "answer":
                answer = cast("Json", event["answer"])
                if "error" in answer:
                    raise _said(answer["error"])
                return answer
        raise client.died()


def _said(error: Json) -> ModalbatchError:
    kind = UnavailableError if error["exit_code"] == UnavailableError.exit_code else ModalbatchError
    return kind(error["message"], hint=error["hint"])
