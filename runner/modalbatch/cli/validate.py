"""`modalbatch validate`: all mistakes of all specs at once. Runs on: laptop. Refuses the network and users' code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from modalbatch.cli import json_option, print_json
from modalbatch.compiler.resolve import resolve
from modalbatch.errors import SpecError, SpecErrors, UsageError
from modalbatch.spec import load_spec

_SUFFIXES = (".yaml", ".yml")
_TOP_KEYS = re.compile(rb"^(version|name|handler|source|sink)\s*:", re.MULTILINE)
_MAX_LOOKED_AT = 1024**2


@click.command()
@click.argument("specs", metavar="SPEC...", nargs=-1, required=True)
@json_option
def command(specs: tuple[str, ...], as_json: bool) -> None:
    """Check specs, or all specs in folders: every mistake at once, no network, no code of yours is run."""
    paths, skipped = _find(specs)
    for path in skipped:
        sys.stderr.write(f"{path}: skipped, it does not look like a spec\n")
    if not paths:
        raise UsageError("no spec found", hint="`modalbatch init` writes a working one")
    errors: list[SpecError] = []
    n_wrong = n_mistakes = 0
    for path in paths:
        try:
            resolve(load_spec(path))
        except SpecErrors as wrong:
            errors += wrong.errors
            n_wrong += 1
            n_mistakes += wrong.n_mistakes
        else:
            if not as_json:
                sys.stdout.write(f"{path}: ok\n")
    if errors:
        found = SpecErrors(errors, n_files=len(paths), n_mistakes=n_mistakes)
        found.summary = _summary(found, n_wrong)
        raise found
    if as_json:
        print_json({"ok": True, "files": len(paths), "errors": []})
    elif len(paths) > 1:
        sys.stderr.write(f"{len(paths)} specs ok\n")


def _summary(found: SpecErrors, n_wrong: int) -> str:
    n_mistakes = f"{found.n_mistakes} mistake{'s' * (found.n_mistakes > 1)}"
    if found.n_files > 1:
        return f"{n_mistakes} in {n_wrong} of {found.n_files} specs"
    return n_mistakes if found.n_mistakes > 1 else ""


def _find(given: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The specs to check, and the YAML files of folders that are none; in order, each once."""
    paths: dict[str, None] = {}
    skipped: dict[str, None] = {}
    for name in given:
        if not Path(name).is_dir():
            paths[name] = None
            continue
        for path in _yaml_files(name):
            (paths if _looks_like_spec(path) else skipped)[path] = None
    return list(paths), [path for path in skipped if path not in paths]


def _yaml_files(folder: str) -> Iterator[str]:
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")) and name != "node_modules")
        for name in sorted(names):
            if name.endswith(_SUFFIXES) and not name.startswith("."):
                yield os.path.normpath(Path(at) / name)


def _looks_like_spec(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            head = file.read(_MAX_LOOKED_AT)
    except OSError:
        return True  # reading it as a spec says why it cannot be read
    found = set(_TOP_KEYS.findall(head))
    return len(found) > 1 and bool(found - {b"version", b"name"})
