"""`modalbatch init`: a working starter. Runs on: laptop. Owns the starter's text; refuses to overwrite anything."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import click

from modalbatch.errors import UsageError
from modalbatch.spec.schema import NAME, schema_text

_SPEC = """\
# yaml-language-server: $schema={schema}
version: 1
name: {name}
handler: handlers:count          # module:function, relative to this file
source: data/*.jsonl
sink: out/
"""

_HANDLER = '''\
"""The code that each record goes through."""


def count(record: dict) -> dict:
    """Count the words of one document."""
    return {"id": record["id"], "words": len(record["text"].split())}
'''

_RECORDS = (
    '{"id": 1, "text": "a batch is a list of records"}\n'
    '{"id": 2, "text": "every record ends in exactly one place"}\n'
    '{"id": 3, "text": "failures are data"}\n'
)

_IGNORE = ".modalbatch/\n__pycache__/\nout/\n"


@click.command()
@click.argument("folder", metavar="[DIR]", default=".")
def command(folder: str) -> None:
    """Write a working starter into DIR (default: here): a spec, a handler and three records."""
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise UsageError(f"`{folder}` is a file", hint="name a folder")
    schema = f".modalbatch/{NAME}"
    files = {
        "job.yaml": _SPEC.format(name=_job_name(root), schema=schema),
        "handlers.py": _HANDLER,
        "data/records.jsonl": _RECORDS,
    }
    taken = [name for name in files if (root / name).exists()]
    if taken:
        hint = "nothing was written; name an empty folder, for example `modalbatch init my-job`"
        raise UsageError(f"`{root / taken[0]}` is already there", hint=hint)
    if not (root / ".gitignore").exists():
        files[".gitignore"] = _IGNORE
    try:
        for name, text in {**files, ".modalbatch/.gitignore": "*\n", schema: schema_text()}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"`{folder}` cannot be written: {(error.strerror or 'unknown error').lower()}") from error
    for name in files:
        sys.stderr.write(f"wrote {root / name}\n")
    spec = shlex.quote(str(root / "job.yaml"))
    sys.stderr.write(f"\nnext:\n  modalbatch validate {spec}\n  modalbatch apply {spec} --engine local\n")


def _job_name(root: Path) -> str:
    """A valid job name from the folder's own."""
    name = re.sub(r"[^a-z0-9]+", "-", root.resolve().name.lower()).strip("-")[:63]
    return name or "wordcount"
