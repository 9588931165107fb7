"""`errors`: dead letters by what went wrong. Runs on: laptop. Streams: memory is one sample for each kind."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import click

from modalbatch.cli import json_option, print_json
from modalbatch.cli.operand import Target, find_target, opened, shown
from modalbatch.sinks.letter import has_record

if TYPE_CHECKING:
    from modalbatch.canonical import Json
    from modalbatch.cli.operand import Found
    from modalbatch.report.cluster import Kind

_MAX_RECORD = 100
_OUR_OWN = "modalbatch.runtime.handler."


@click.command("errors")
@click.argument("operand", metavar="[OPERAND]", required=False)
@json_option
def command(operand: str | None, as_json: bool) -> None:
    """Show what went wrong, in kinds, of OPERAND (a spec, a sink, a job or a run; default: the last run here).

    Dead letters count as the same when cause, type, place in your code and message are, apart from numbers, quotations
    and ids in it.
    """
    from modalbatch.cli.cat import dead_letters
    from modalbatch.report.cluster import clusters
    from modalbatch.report.text import count

    found = find_target(operand)
    spec = _spec(found)
    with opened(found) as sink:
        manifest = sink.newest()
        kinds, n_others = clusters(dead_letters(sink))
    number = manifest.number if manifest else 0
    total = sum(kind.n for kind in kinds) + n_others
    if as_json:
        print_json(
            {
                "ok": True,
                "manifest": number,
                "dead": total,
                "kinds": [kind.to_json() for kind in kinds],
                "others": n_others,
            }
        )
        return
    for kind in kinds:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(kind, spec)))
    sys.stdout.flush()
    if n_others:
        sys.stderr.write(f"and {count(n_others, 'dead letter')} of other kinds\n")
    if not total:
        sys.stderr.write(f"no dead letters · manifest {number}\n" if manifest else "nothing is published yet\n")
        return
    sys.stderr.write(f"{count(total, 'dead letter')} of {count(len(kinds), 'kind')} · manifest {number}\n")
    signature = kinds[0].signature
    sys.stderr.write(f"next: modalbatch cat --dead --error {signature} · modalbatch retry --error {signature}\n")


def _spec(found: Found) -> str:
    """The spec as it would be typed here, as far as it is known."""
    known = str(found.spec_path) if isinstance(found, Target) else found.note.spec if found.note else ""
    return shlex.quote(shown(known)) if known else "SPEC"


def _lines(kind: Kind, spec: str) -> list[str]:
    failing = kind.failing
    name = failing.type.replace(_OUR_OWN, "modalbatch.")  # as handlers write it
    message = f": {failing.message}" if failing.message else ""
    place = f" · {failing.place}" if failing.place else ""
    inputs = f" · {len(kind.uris):,} inputs" if len(kind.uris) > 1 else ""
    return [
        f"{kind.n:>7,} × {failing.cause} · {name}{message}",
        f"{'':>10}{kind.signature}{place}{inputs}",
        f"{'':>10}for example {_where(kind.sample)}{_shown(kind.sample)}",
        *([f"{'':>10}again: modalbatch test {spec} --dead {kind.sample['id']}"] if has_record(kind.sample) else []),
    ]


def _where(letter: Json) -> str:
    position = letter["position"]
    at = f" at byte {position['offset']:,}" if position["offset"] is not None else ""
    return f"{letter['uri']}{at}, record {position['ordinal'] + 1:,} of its split"


def _shown(letter: Json) -> str:
    if "record" not in letter:
        return ": it could not be decoded"
    text = json.dumps(letter["record"], ensure_ascii=False)
    return f": {text if len(text) <= _MAX_RECORD else text[:_MAX_RECORD] + '…'}"
