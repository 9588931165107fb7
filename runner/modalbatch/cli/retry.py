"""`retry`: the dead letters again, with the handler as it is now. Runs on: laptop. A flow that lists no source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from modalbatch.cli.apply import conduct, run_options
from modalbatch.cli.flow import Flow, Wish
from modalbatch.driver.again import retry_facts
from modalbatch.driver.runs import Request
from modalbatch.errors import BusyError, UsageError
from modalbatch.report.text import count

if TYPE_CHECKING:
    from modalbatch.canonical import Json
    from modalbatch.cli.operand import Target


@click.command("retry")
@click.argument("operand", metavar="[OPERAND]", required=False)
@click.option("--error", "signature", metavar="SIG", help="Only dead letters of this kind, as `errors` names it.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@run_options
def command(operand: str | None, *, signature: str | None, yes: bool, **options: Any) -> int:
    """Process the dead letters of OPERAND again (a spec, a sink, a job or a run; default: the last run here).

    Nothing else is processed, and everything else of the sink stays as it is: results join those of the same inputs,
    and what fails again stays a dead letter, with its attempts added up.
    """
    wish = Wish(yes=yes, retry={"error": signature})
    return conduct(_Retry, lambda: _find(operand), wish, **options)


def _find(operand: str | None) -> Target:
    from modalbatch.cli.operand import Target, find_target

    found = find_target(operand)
    if not isinstance(found, Target) and found.note is not None:
        found = find_target(found.note.run_id)
    if not isinstance(found, Target):
        raise UsageError("a retry needs the spec of the sink", hint="modalbatch retry SPEC")
    return found


class _Retry(Flow):
    """The flow of a run whose plan is what is dead."""

    def _join(self, run: Json) -> int:
        hint = f"wait for it, stop it with `modalbatch cancel {run['run_id']}`, or start beside it with --force"
        raise BusyError(f"run {run['run_id']} of {run['user'] or 'somebody'} is active", hint=hint)

    def _decide(self) -> tuple[Json, bool]:
        wish = self._wish
        assert wish.retry is not None
        request = Request(run_id="", adopt=wish.adopt)
        facts = retry_facts(self._job, self._sink, self._target.fingerprint, wish.retry["error"], request=request)
        self._console.event({"event": "retry", **facts}, [_line(facts)])
        self.result["retry"] = facts
        return facts, False


def _line(facts: Json) -> str:
    number = facts["manifest"] + 1
    if facts["is_done"]:
        return "nothing to retry"
    if not facts["letters"]:
        return f"publishing manifest {number}: an earlier retry has done it all"
    letters, splits = count(facts["letters"], "dead letter"), count(facts["todo"]["splits"], "split")
    return f"retrying {letters} of {splits}, for manifest {number}"
