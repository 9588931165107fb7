"""`ls`: the live parts of a sink. Runs on: laptop. Follows the newest manifest; what else lies there is no output."""

from __future__ import annotations

import sys

import click

from modalbatch.cli import json_option, print_json
from modalbatch.cli.operand import find_target, opened, shown


@click.command("ls")
@click.argument("operand", metavar="[OPERAND]", required=False)
@click.option("-l", "--long", "is_long", is_flag=True, help="Also records, bytes and inputs.")
@click.option("--dead", is_flag=True, help="The objects of dead letters instead.")
@json_option
def command(operand: str | None, is_long: bool, dead: bool, as_json: bool) -> None:
    """List the live parts of OPERAND (a spec, a sink, a job or a run; default: the last run here), one path a line."""
    from modalbatch.driver.inspect import part_facts
    from modalbatch.report.text import count, quantity

    with opened(find_target(operand)) as sink:
        manifest = sink.newest()
        parts = part_facts(sink, manifest, dead=dead)
        if as_json:
            print_json({"ok": True, "manifest": manifest.number if manifest else 0, "parts": list(parts)})
            return
        n_parts = n_records = n_bytes = 0
        for part in parts:
            n_parts, n_records, n_bytes = n_parts + 1, n_records + part["records"], n_bytes + part["bytes"]
            line = shown(part["uri"])
            if is_long:
                inputs = ", ".join(f"{item['uri']} {item['start']}-{item['end']}" for item in part["inputs"])
                line = f"{part['records']:>10} {part['bytes']:>12}  {line}  {inputs}"
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    if manifest is None:
        sys.stderr.write("nothing is published yet\n")
        return
    what = "dead letter" if dead else "record"
    totals = f"{count(n_parts, 'object' if dead else 'part')}, {count(n_records, what)}, {quantity(n_bytes)}"
    sys.stderr.write(f"{totals} · manifest {manifest.number}\n")
