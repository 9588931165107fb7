"""`modalbatch schema`: the JSON schema of a spec, for editors. Runs on: laptop."""

from __future__ import annotations

import sys

import click

from modalbatch.spec.schema import schema_text


@click.command()
def command() -> None:
    """Print the JSON schema of a spec; editors read it from the line that `init` writes."""
    sys.stdout.write(schema_text())
