"""`compile`: the app that a spec becomes. Runs on: laptop. Prints, writes or compares it; runs nothing."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import click

from modalbatch.errors import UsageError


@click.command("compile")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the app to FILE.")
@click.option("--check", type=click.Path(path_type=Path), metavar="FILE", help="Exit 1 with a diff if FILE is not it.")
def command(spec: Path, output: Path | None, check: Path | None) -> int:
    """Print the Modal app that SPEC becomes.

    `modal run` and `modal deploy` work on it, from any folder. The same spec gives the same bytes: commit the app and
    let `--check` say when it is out of date.
    """
    from modalbatch.compiler.emit import compile_app, write_app
    from modalbatch.compiler.resolve import resolve
    from modalbatch.spec import load_spec

    if output and check:
        raise UsageError("`-o` and `--check` exclude each other")
    existing = _read(check) if check else ""
    job = resolve(load_spec(spec))
    if output:
        try:
            write_app(job, spec, output)
        except OSError as error:
            raise UsageError(f"cannot write `{output}`: {error.strerror}") from error
        return 0
    source = compile_app(job, spec, check)
    if not check:
        sys.stdout.write(source)
        return 0
    lines = existing.splitlines(keepends=True), source.splitlines(keepends=True)
    diff = list(difflib.unified_diff(*lines, fromfile=str(check), tofile=f"{spec} (compiled)"))
    sys.stdout.writelines(diff)
    return 1 if diff else 0


def _read(path: Path) -> str:
    try:
        # Bytes that are no UTF-8, and line ends that are not ours, must show as differences.
        return path.read_bytes().decode("utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"cannot read `{path}`: {error.strerror}", hint=f"`modalbatch compile SPEC -o {path}` writes it"
        ) from error
