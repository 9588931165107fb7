"""`modalbatch version`: what is installed. Runs on: laptop. Reads metadata; imports nothing heavy."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import click

from modalbatch import __version__
from modalbatch.cli import json_option, print_json


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Print the versions of modalbatch, modal and Python."""
    try:
        modal = metadata.version("modal")
    except metadata.PackageNotFoundError:
        modal = "not installed"
    versions = {"modalbatch": __version__, "modal": modal, "python": platform.python_version()}
    if as_json:
        print_json(versions)
    else:
        sys.stdout.writelines(f"{name} {version}\n" for name, version in versions.items())
