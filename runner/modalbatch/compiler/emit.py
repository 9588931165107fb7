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
from modalbatch.compiler.state import app_file, default_path, state_dir
from modalbatch.fingerprint import fingerprint, hash_code
from modalbatch.job import Job

if TYPE_CHECKING:
    from jinja2 import Template


def emit(job: Job, *, spec_name: str, spec_dir: str, fingerprint: str, app_name: str = "") -> str:
    """The app's source.

    `spec_dir` is the spec's folder relative to the app's, with `/` between segments; the names and the fingerprint
    stand in the header only.

    Raises:
        UsageError: the job names a method or a keyword that is not Modal's.
    """
    shared = expressions.shared(job)
    return _page().render(
        version=__version__,
        spec_name=_comment(spec_name),
        spec_path=_comment(spec_name if spec_dir == "." else f"{spec_dir}/{spec_name}"),
        app_name=_comment(app_name or app_file(job.name)),
        fingerprint=_comment(fingerprint)[:8],
        spec_dir=expressions.spec_folder(spec_dir),
        job=assign("JOB", expressions.job_literal(job)),
        shared=[f"{name} = {assign(name, node)}" for name, node in shared.items()],
        app=assign("app", expressions.app_call(job)),
        worker=fit(expressions.worker_call(job, shared)) + "\n" + expressions.concurrent_call(job),
        drive=fit(expressions.function_call(shared, expressions.DRIVE_TIMEOUT_S)),
        inspect=fit(expressions.function_call(shared, expressions.INSPECT_TIMEOUT_S)),
    )


def compile_app(job: Job, spec_path: Path, app_path: Path | None = None) -> str:
    """The app of a spec as it belongs at `app_path`, else in `.modalbatch/`; reads the handler, writes nothing."""
    spec_dir = spec_path.resolve().parent
    app_path = app_path or default_path(spec_dir, job.name)
    code = hash_code(job.modules, [spec_dir])
    return emit(
        job,
        spec_name=spec_path.name,
        spec_dir=Path(os.path.relpath(spec_dir, app_path.resolve().parent)).as_posix(),
        fingerprint=fingerprint(job, code),
        app_name=app_path.name,
    )


def write_app(job: Job, spec_path: Path, app_path: Path | None = None) -> Path:
    """Write the app of a spec, whole or not at all, and say where; an app that is up to date keeps its time."""
    if app_path is None:
        spec_dir = spec_path.resolve().parent
        state_dir(spec_dir)
        app_path = default_path(spec_dir, job.name)
    source = compile_app(job, spec_path, app_path).encode()
    if app_path.is_file() and app_path.read_bytes() == source:
        return app_path
    app_path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=app_path.parent, prefix=f".{app_path.name}.", delete=False) as stream:
        stream.write(source)
    written = Path(stream.name)
    try:
        written.chmod(0o644)
        written.replace(app_path)
    finally:
        written.unlink(missing_ok=True)
    return app_path


def _comment(text: str) -> str:
    # A comment ends at any line break that Python knows, and one with a coding cookie re-reads the whole file:
    # what is left of a name here can be neither.
    return re.sub(r"[^A-Za-z0-9._/-]", "?", text)


@cache
def _page() -> Template:
    from jinja2 import Environment, StrictUndefined

    source = Path(__file__).with_name("app.py.j2").read_text(encoding="utf-8")
    # No escaping: what is rendered is Python, made safe by `layout.literal`.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)  # noqa: S701
    return environment.from_string(source)
