"""The driver's entry: a request in, the outcome out, progress where the command follows it. Runs on: container."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modalbatch.canonical import Json, encode
from modalbatch.driver.run import Map, Report, Run, Spawn
from modalbatch.driver.runs import Request
from modalbatch.job import Job


async def drive(
    job: Mapping[str, Any],
    request: str,
    map_splits: Map,
    report: Report | None = None,
    *,
    successor: Spawn | None = None,
) -> str:
    """Run the job; JSON text of the outcome: `status`, `exit_code`, counts, and what went wrong.

    `successor`: starts this function once more; a driver whose time is over hands the run over to it, and the outcome
    has its `call_id`. Never raises for what a person can mend: that is in the outcome. Retry-safe: yes; another driver
    may take over.
    """
    asked, report = Request.from_text(request), report or _modal_report(job)
    return encode(await Run(Job.from_json(dict(job)), asked, map_splits, report, successor=successor).conduct())


def _modal_report(job: Mapping[str, Any]) -> Report:
    async def report(progress: Json) -> None:
        import modal

        entries = modal.Dict.from_name(f"modalbatch-{job['name']}", create_if_missing=True)
        # Whoever follows the run later finds the driver that is alive now.
        text = encode({**progress, "call_id": modal.current_function_call_id()})
        await entries.put.aio(progress["run_id"], text)

    return report
