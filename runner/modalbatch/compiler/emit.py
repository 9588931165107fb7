"""Job to app: one readable Modal file. Runs on: laptop.

Owns the page. Pure and total: the same job, names and fingerprint give the same bytes on every machine; no string of
a spec is ever more than a string in it.
"""

from __future__ import annotations

import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from modalbatch import __version__
from modalbatch.compiler import expressions
from modalbatch.compiler.layout import assign, fit
from modalbatch.compiler.state import app_file
from modalbatch.job import Job, fingerprint, hash_code

if TYPE_CHECKING:
    from jinja2 import Template


def emit(job: Job, *, spec_name: str, spec_dir: str, fingerprint: str) -> str:
    """The app's source.

    `spec_name` and `fingerprint` stand in its header only; `spec_dir` is the spec's folder relative to the app's,
    with `/` between segments.

    Raises:
        UsageError: the job names a method or a keyword that is not Modal's.
    """
    shared = expressions.shared(job)
    return _page().render(
        version=__version__,
        spec_name=_comment(spec_name),
        app_name=_comment(app_file(job.name)),
        fingerprint=_comment(fingerprint)[:8],
        spec_dir=expressions.spec_folder(spec_dir),
        job=assign("JOB", expressions.job_literal(job)),
        shared=[f"{name} = {assign(name, node)}" for name, node in shared.items()],
        app=assign("app", expressions.app_call(job)),
        worker=fit(expressions.worker_call(job, shared)),
        drive=fit(expressions.function_call(shared, expressions.DRIVE_TIMEOUT_S)),
        inspect=fit(expressions.function_call(shared, expressions.INSPECT_TIMEOUT_S)),
    )


def compile_app(job: Job, spec_path: Path, app_path: Path) -> str:
    """The app of a spec as it belongs at `app_path`; reads the handler's source for the fingerprint."""
    spec_dir = spec_path.resolve().parent
    relative = os.path.relpath(spec_dir, app_path.resolve().parent)
    code = hash_code(job.modules, [spec_dir])
    return emit(
        job,
        spec_name=spec_path.name,
        spec_dir=Path(relative).as_posix(),
        fingerprint=fingerprint(job, code),
    )


def write_app(job: Job, spec_path: Path, app_path: Path) -> Path:
    """Write the app of a spec, whole or not at all; an app that is up to date keeps its time."""
    source = compile_app(job, spec_path, app_path).encode()
    if app_path.is_file() and app_path.read_bytes() == source:
        return app_path
    app_path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=app_path.parent, prefix=f".{app_path.name}.", delete=False) as stream:
        stream.write(source)
    Path(stream.name).chmod(0o644)
    Path(stream.name).replace(app_path)
    return app_path


def _comment(text: str) -> str:
    # A comment ends at any line break that Python knows, and one with a coding cookie re-reads the whole file:
    # what is left of a name here can be neither.
    return re.sub(r"[^A-Za-z0-9._-]", "?", text)


@cache
def _page() -> Template:
    from jinja2 import Environment, StrictUndefined

    source = Path(__file__).with_name("app.py.j2").read_text(encoding="utf-8")
    # No escaping: what is rendered is Python, made safe by `layout.literal`.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)  # noqa: S701
    return environment.from_string(source)
