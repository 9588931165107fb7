"""`verify`: the proof that a sink is whole. Runs on: laptop. Reads storage alone; exit 0: nothing is wrong."""

from __future__ import annotations

import os
import sys

import click

from modalbatch.cli import json_option, print_json
from modalbatch.cli.operand import Found, Target, find_target, opened
from modalbatch.driver.proof import Finding, Proof
from modalbatch.errors import UsageError
from modalbatch.sources import Source

#: Objects between two words about progress on a terminal.
_STEP = 100
#: A sink of so many bytes is read by many containers, where there are many.
_LARGE_BYTES = 8 << 30


@click.command("verify")
@click.argument("operand", metavar="[OPERAND]", required=False)
@click.option("--source", "with_source", is_flag=True, help="Also compare with what the source holds now.")
@click.option("--quick", is_flag=True, help="Compare sizes only, do not read the parts.")
@click.option(
    "--strict", is_flag=True, help="Exit 1 for extra objects, too: what `part-*` finds besides the live parts."
)
@click.option(
    "--engine",
    type=click.Choice(["modal", "local"]),
    help="Have the parts read by the containers of the job's app, many at the same time.",
)
@click.option("--here", is_flag=True, help="Read everything on this machine, a volume and a large sink, too.")
@json_option
def command(  # noqa: PLR0917 click passes them by name
    operand: str | None,
    with_source: bool,
    quick: bool,
    strict: bool,
    engine: str | None,
    here: bool,
    as_json: bool,
) -> int:
    """Prove from storage alone that OPERAND accounts for every record exactly once.

    OPERAND is a spec, a sink, a job or a run; default: the last run here. Names each object that is missing, altered
    or duplicated, and exits 1 if there is one. The containers of the job's app read what lies on a volume, and what is
    large and on Modal.
    """
    if engine and here:
        raise UsageError("`--engine` and `--here` exclude each other")
    found = find_target(operand)
    if engine and not isinstance(found, Target):
        raise UsageError("`--engine` needs a spec, not a sink", hint="modalbatch verify SPEC --engine local")
    if isinstance(found, Target) and not here and (engine or _is_better_there(found, quick or with_source)):
        proof = _verify_there(found, engine, with_source=with_source, quick=quick)
    else:
        proof = _verify_here(found, with_source=with_source, quick=quick, is_told=sys.stderr.isatty() and not as_json)
    is_ok = proof.is_whole and not (strict and proof.n_extras)
    if as_json:
        print_json({**proof.to_json(), "ok": is_ok})
    else:
        _print(proof, is_ok, quick)
    return 0 if is_ok else 1


def _verify_here(found: Found, *, with_source: bool, quick: bool, is_told: bool) -> Proof:
    from modalbatch.driver.verify import verify

    with opened(found) as sink:
        source = _source(found) if with_source else None
        return verify(sink, source=source, reads_parts=not quick, told=_tell if is_told else None)


def _verify_there(target: Target, engine: str | None, *, with_source: bool, quick: bool) -> Proof:
    from modalbatch.cli.remote import ask_app

    answer = ask_app(target, "verify", engine=engine, source=with_source, reads_parts=not quick)
    return Proof.from_json(answer)


def _is_better_there(target: Target, is_small: bool) -> bool:
    """Whether containers next to the data read it better than this machine."""
    from modalbatch.engines.choose import choose_engine

    if target.sink_uri.startswith("volume://"):
        return True
    if is_small or "://" not in target.sink_uri or choose_engine(None, os.environ).kind == "local":
        return False
    with opened(target) as sink:
        manifest = sink.newest()
    return manifest is not None and manifest.part_bytes >= _LARGE_BYTES


def _source(found: Found) -> Source:
    from modalbatch.driver.rule import cut_job
    from modalbatch.sinks import live_parts
    from modalbatch.sources import open_source

    if not isinstance(found, Target):
        raise UsageError("`--source` needs a spec, not a sink", hint="modalbatch verify SPEC --source")
    cache = str(found.state_path / "identities.db")
    job = cut_job(found.job, found.open_sink().owner())
    return open_source(job, found.roots, identity_cache=cache, manifest_parts=live_parts)


def _tell(n_read: int) -> None:
    if n_read % _STEP == 0:
        sys.stderr.write(f"\r{n_read:,} objects read\r")


def _print(proof: Proof, is_ok: bool, quick: bool) -> None:
    from modalbatch.report.text import count, quantity, records_line

    _print_findings(proof.problems, proof.n_problems)
    _print_findings(proof.extras, proof.n_extras)
    if not proof.is_whole:
        extras = f" and {count(proof.n_extras, 'extra object')}" if proof.n_extras else ""
        sys.stderr.write(f"not whole: {count(proof.n_problems, 'problem')}{extras}\n")
        sys.stderr.write("hint: `modalbatch plan` says what apply would do again\n")
        return
    size = f"{count(proof.n_receipts, 'split')}, {count(proof.n_parts, 'part')}, {quantity(proof.part_bytes)}"
    how = "sizes compared, contents not read" if quick else "every byte read"
    sys.stderr.write(f"whole: manifest {proof.manifest}, {size}; {how}\n")
    sys.stderr.write(f"{records_line(proof.counts.to_json())}\n")
    if not proof.is_complete:
        sys.stderr.write("no `_SUCCESS`: dead letters remain, or a run has not ended\n")
    if not is_ok:
        sys.stderr.write(f"{count(proof.n_extras, 'extra object')}\n")


def _print_findings(findings: tuple[Finding, ...], n_all: int) -> None:
    for finding in findings:
        sys.stdout.write(f"{finding.kind}: {finding.object}: {finding.message}\n")
    if n_all > len(findings):
        sys.stdout.write(f"and {n_all - len(findings):,} more\n")
    sys.stdout.flush()
