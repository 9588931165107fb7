"""Planning, listing and verifying as plain data. Runs on: both.

Owns what the reading verbs say of a job and its sink: the command prints it, and `inspect`, a function of the app,
works it out next to the data where the command has no access. Writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from modalbatch.canonical import Json, encode
from modalbatch.driver import runs
from modalbatch.driver.content import answer_check
from modalbatch.driver.plan import Plan, check_owner, plan
from modalbatch.driver.reason import changed, leaves
from modalbatch.driver.rule import cut_job
from modalbatch.driver.tally import Group
from modalbatch.driver.verify import verify
from modalbatch.errors import InternalError, ModalbatchError
from modalbatch.fingerprint import fingerprint, hash_code
from modalbatch.job import Job
from modalbatch.records import Manifest, Part, Receipt
from modalbatch.sinks import live_parts, open_sink
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import Source, open_source


def inspect(job: Mapping[str, Any], request: str, spread: Callable[..., Iterable[str]] | None = None) -> str:
    """Answer one verb, JSON text both ways.

    `request`: {"verb": `plan`, `ls`, `verify`, `check` or `runs`, its options, and the fields of `runs.Request`}.
    `spread`: `inspect.map`, with which `verify` has the parts read by other containers.
    Never raises: what went wrong is {"error": {message, hint, exit_code, …}}.
    """
    try:
        return encode(_answer(Job.from_json(dict(job)), json.loads(request), spread))
    except ModalbatchError as error:
        return encode({"error": error.to_json() | {"exit_code": error.exit_code}})
    except Exception as error:  # the caller must learn of it, whatever it is
        found = InternalError(f"{type(error).__name__}: {error}")
        return encode({"error": found.to_json() | {"exit_code": found.exit_code}})


def _answer(job: Job, asked: Json, spread: Callable[..., Iterable[str]] | None) -> Json:
    verb = asked.pop("verb")
    options = {name: asked.pop(name) for name in list(asked) if name not in runs.Request.__slots__}
    request = runs.Request(**asked)

    def send(checks: Iterator[str]) -> Iterable[str]:
        assert spread
        return spread((encode(json.loads(text) | asked) for text in checks), order_outputs=False)

    sink = open_sink(job, request.roots, in_container=True)
    sink.refresh()
    source = open_source(
        cut_job(job, sink.owner()),
        request.roots,
        in_container=True,
        identity_cache=request.identity_cache,
        manifest_parts=live_parts,
    )
    verbs: dict[str, Callable[[], Json]] = {
        "plan": lambda: plan_facts(
            job, sink, source, fingerprint(job, hash_code(job.modules)), leaves(job), request=request
        ),
        "ls": lambda: {"parts": list(part_facts(sink, sink.newest()))},
        "verify": lambda: verify(
            sink,
            source=source if options.get("source") else None,
            reads_parts=options.get("reads_parts", True),
            send=send if spread else None,
        ).to_json(),
        "check": lambda: {"findings": answer_check(sink.store, options["parts"])},
        "runs": lambda: {"runs": list(runs.list_runs(sink))},
    }
    return verbs[verb]()


def plan_facts(
    job: Job,
    sink: ObjectSink,
    source: Source,
    mine: str,
    decides: Mapping[str, str],
    *,
    request: runs.Request,
) -> Json:
    """A plan, with its reasons. `mine`: the job's fingerprint; `decides`: its `reason.leaves`.

    Raises:
        StateError: the sink is not this job's.
        NotFoundError: the source is empty and the spec does not allow it.
    """
    check_owner(job, sink, into_existing=request.into_existing, adopt=request.adopt)
    return describe_plan(job, sink, plan(job, sink, source, mine, keep=request.keep), mine, decides)


def describe_plan(job: Job, sink: ObjectSink, found: Plan, mine: str, decides: Mapping[str, str]) -> Json:
    """A plan as plain data; `report.plan` prints it."""
    reasons, manifest = found.reasons, found.sight.manifest
    todo = (reasons.new, reasons.input, reasons.code, reasons.packed, reasons.lost)
    return {
        "name": job.name,
        "fingerprint": mine,
        "sink": job.sink.uri,
        "manifest": manifest.number if manifest else 0,
        "inputs": found.n_inputs,
        "splits": found.n_units,
        "bytes": sum(group.n_bytes for group in (reasons.kept, *todo)),
        "todo": {"splits": sum(group.n_units for group in todo), "bytes": sum(group.n_bytes for group in todo)},
        "is_done": found.is_published,
        "on_removed": job.source.on_removed,
        "changed_keys": _changed_keys(sink, manifest, decides) if reasons.code.n_units else [],
        "groups": {name: _group(group) for name, group in reasons._asdict().items()},
    }


def _group(group: Group) -> Json:
    return {
        "splits": group.n_units,
        "inputs": group.n_inputs,
        "bytes": group.n_bytes,
        "examples": list(group.examples),
    }


def _changed_keys(sink: ObjectSink, manifest: Manifest | None, decides: Mapping[str, str]) -> list[str]:
    """What is not as in the run that published the manifest; empty where that run left no word of it."""
    run = runs.read_run(sink, manifest.run_id) if manifest else None
    before = (run or {}).get("decides")
    return changed(before, decides) if before else []


def part_facts(sink: ObjectSink, manifest: Manifest | None, *, dead: bool = False) -> Iterator[Json]:
    """Every live part (or object of dead letters) in the manifest's order, lazy."""
    for _, receipt in sink.live(manifest):
        for part in receipt.dead if dead else receipt.parts:
            yield _part(sink, receipt, part)


def _part(sink: ObjectSink, receipt: Receipt, part: Part) -> Json:
    return {
        "name": part.name,
        "uri": sink.store.uri + part.name,
        "records": part.records,
        "bytes": part.bytes,
        "sha256": part.sha256,
        "inputs": [{"uri": unit.uri, "start": unit.start, "end": unit.end} for unit in receipt.units],
    }
