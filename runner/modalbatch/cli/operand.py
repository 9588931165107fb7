"""What a verb works on: a spec, a job's name, a run, a sink. Runs on: laptop.

Owns how an operand is understood, the notes of the runs that were started here (`.modalbatch/runs/`), and reaching the
sink from this machine: credentials, the server behind `volume://`. Refuses to guess: what is unclear is an error with
a list.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from modalbatch.compiler.resolve import resolve
from modalbatch.compiler.state import state_dir, state_path
from modalbatch.engines.choose import choose_engine
from modalbatch.errors import ModalbatchError, SpecErrors, UsageError
from modalbatch.fingerprint import fingerprint, hash_code
from modalbatch.job import Credentials, Job
from modalbatch.names import CONTROL
from modalbatch.records import actual_uri
from modalbatch.sinks import open_existing, open_sink
from modalbatch.sinks.objects import ObjectSink
from modalbatch.spec import load_spec
from modalbatch.spec.words import listed, meant
from modalbatch.stores import OBJECT_STORES, open_store

_SCHEMES = (*OBJECT_STORES, "volume")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNote:
    """What is remembered here of a run that was started here: where to look, never how it went."""

    run_id: str
    #: The job's.
    name: str
    #: Absolute path of the spec.
    spec: str
    #: Actual URI of the sink as this machine reads it; a local folder for a mirror.
    sink: str
    #: Logical prefix → actual prefix, as the driver was told.
    roots: dict[str, str] = field(default_factory=dict)
    #: As in `driver.runs.Request`: {"kind": "local" | "modal", …}.
    engine: dict[str, str] = field(default_factory=dict)
    #: Seconds since the epoch.
    started: float = 0.0

    def write(self, state: Path) -> None:
        """Remember the run. Order: before the run is started, so that it can be asked about at any time."""
        path = state / "runs" / f"{self.run_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(asdict(self)), encoding="utf-8")
        draft.replace(path)


def run_notes(state: Path) -> list[RunNote]:
    """The runs that were started here, oldest first; notes that cannot be read are left out."""
    notes = []
    for path in (state / "runs").glob("*.json"):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            notes.append(RunNote(**{item.name: data[item.name] for item in fields(RunNote) if item.name in data}))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(notes, key=lambda note: (note.started, note.run_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A job, and where it stands on this machine."""

    #: Absolute.
    spec_path: Path
    spec_dir: Path
    job: Job
    #: `.modalbatch/` of the spec.
    state_path: Path
    fingerprint: str
    #: Logical prefix → actual prefix, on this machine.
    roots: Mapping[str, str]
    #: Actual URI of the sink; ends with `/`.
    sink_uri: str
    #: The run that the operand meant, if it meant one.
    note: RunNote | None = None

    def open_sink(self) -> ObjectSink:
        """The job's sink. Order: inside `reach`."""
        return open_sink(self.job, self.roots)

    def secrets(self) -> list[str]:
        """Names of the secrets with credentials of source and sink."""
        names = [self.job.source.credentials.secret, self.job.sink.credentials.secret]
        return [name for name in names if name]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOnly:
    """A sink whose job is not known here."""

    #: Actual URI; ends with `/`.
    sink_uri: str
    #: `.modalbatch/` of the current folder; it may not exist.
    state_path: Path
    #: Of the job that was last seen with this sink.
    endpoint_url: str | None = None
    credentials: Credentials = field(default_factory=Credentials)
    note: RunNote | None = None

    def open_sink(self) -> ObjectSink:
        """The sink as it stands. Order: inside `reach`."""
        return open_existing(open_store(self.sink_uri, endpoint_url=self.endpoint_url, credentials=self.credentials))

    def secrets(self) -> list[str]:
        """Name of the secret with credentials of the sink."""
        return [self.credentials.secret] if self.credentials.secret else []


Found: TypeAlias = "Target | SinkOnly"


def load_target(spec: str | Path, note: RunNote | None = None) -> Target:
    """The job of a spec.

    Raises:
        SpecErrors: everything that is wrong with it.
    """
    job = resolve(load_spec(spec))
    spec_path = Path(spec).resolve()
    spec_dir = spec_path.parent
    roots = {"": f"{spec_dir}/"}
    return Target(
        spec_path=spec_path,
        spec_dir=spec_dir,
        job=job,
        state_path=state_dir(spec_dir),
        fingerprint=fingerprint(job, hash_code(job.modules, [spec_dir])),
        roots=roots,
        sink_uri=actual_uri(job.sink.uri, roots),
        note=note,
    )


def find_target(operand: str | None, cwd: Path | None = None) -> Found:
    """What an operand means: a spec, a sink, a run id, a job's name; without one the last run that was started here.

    Raises:
        UsageError: it means nothing; the hint says what was probably meant.
        SpecErrors: it is a spec with mistakes.
    """
    here = cwd or Path.cwd()
    state = _find_state(here)
    notes = run_notes(state)
    if operand is None:
        if not notes:
            raise UsageError(
                "no run was started here yet", hint="name a spec, a sink (`out/`, `s3://…`), a job or a run"
            )
        return _noted(notes[-1], state)
    if "://" in operand:
        return _at_uri(operand, notes, state)
    path = here / operand
    if path.is_dir():
        return _in_folder(path, operand, notes, state)
    if path.exists() or operand.endswith((".yaml", ".yml")):
        return load_target(path if path.is_absolute() and cwd else operand)
    for note in reversed(notes):
        if operand in (note.run_id, note.name):
            return _noted(note, state)
    spec = _spec_named(operand, here)
    if spec:
        return load_target(spec)
    if "/" in operand:
        raise UsageError(f"there is no file or folder `{operand}`", hint="name a spec, a sink, a job or a run")
    known = list(dict.fromkeys([note.name for note in notes] + [note.run_id for note in notes] + _spec_files(here)))
    names = list(dict.fromkeys(note.name for note in reversed(notes)))[:5]
    hint = meant(operand, known) or (
        f"jobs that ran here: {listed(names, 'and')}" if names else "name a spec or a sink"
    )
    raise UsageError(f"`{operand}` is no spec, sink, run or job that is known here", hint=hint)


@contextmanager
def reach(found: Found, *, engine: str | None = None) -> Iterator[None]:
    """Make the stores of source and sink reachable: credentials of secrets, Modal's server or the local engine's.

    `engine`: whose volumes `volume://` means; None: that of the last run. The environment is as before afterwards.
    """
    with ExitStack() as stack:
        values: dict[str, str] = {}
        for name in found.secrets():
            values |= _secret_values(found.state_path, name)
        if found.sink_uri.startswith("volume://") and (engine or _engine_kind(found)) == "local":
            from modalbatch.engines.local import LocalEngine

            values |= stack.enter_context(LocalEngine(found.state_path)).environ()
        stack.enter_context(_environment(values))
        yield


@contextmanager
def opened(found: Found) -> Iterator[ObjectSink]:
    """The sink, readable from here.

    Raises:
        UsageError: nothing of modalbatch stands there.
    """
    with reach(found):
        sink = found.open_sink()
        sink.refresh()
        if next(sink.store.list(CONTROL), None) is None:
            raise UsageError(f"there is no sink at `{shown(found.sink_uri)}` yet", hint="`modalbatch apply` writes it")
        yield sink


def shown(uri: str) -> str:
    """An actual URI as a person would type it here: below the current folder relative, else whole."""
    if "://" in uri:
        return uri
    relative = os.path.relpath(uri)
    text = uri if relative.startswith("..") else relative
    return f"{text.rstrip('/')}/" if uri.endswith("/") else text


def _find_state(here: Path) -> Path:
    """The state of a folder, else the nearest one above it."""
    state = state_path(here)
    if state.is_dir() or "MODALBATCH_HOME" in os.environ:
        return state
    above = (parent / ".modalbatch" for parent in here.resolve().parents)
    return next((path for path in above if (path / "runs").is_dir()), state)


def _noted(note: RunNote, state: Path) -> Found:
    """The target of a run. The sink is the run's: where the spec has moved on, or is gone, the sink stands alone."""
    try:
        target = load_target(note.spec, note)
    except SpecErrors:
        return SinkOnly(sink_uri=note.sink, state_path=state, note=note)
    if target.sink_uri.rstrip("/") == note.sink.rstrip("/"):
        return target
    sink, is_object_store = target.job.sink, note.sink.partition("://")[0] in OBJECT_STORES
    return SinkOnly(
        sink_uri=note.sink,
        state_path=target.state_path,
        endpoint_url=sink.endpoint_url if is_object_store else None,
        credentials=sink.credentials if is_object_store else Credentials(),
        note=note,
    )


def _at_uri(uri: str, notes: list[RunNote], state: Path) -> Found:
    scheme, _, rest = uri.partition("://")
    if scheme not in _SCHEMES or not rest.strip("/"):
        raise UsageError(
            f"`{uri}` is no sink",
            hint="sinks are folders, `s3://bucket/prefix/`, `az://…`, `gs://…` and `volume://name/path/`",
        )
    return _of_sink(f"{uri.rstrip('/')}/", notes, state)


def _in_folder(path: Path, operand: str, notes: list[RunNote], state: Path) -> Found:
    if not (path / CONTROL).is_dir():
        specs = _spec_files(path)
        hint = f"name the spec: `{os.path.normpath(Path(operand) / specs[0])}`" if specs else "name a spec or a sink"
        raise UsageError(f"the folder `{operand}` is no sink: it has no `{CONTROL}`", hint=hint)
    return _of_sink(f"{path.resolve()}/", notes, state)


def _of_sink(uri: str, notes: list[RunNote], state: Path) -> Found:
    """A sink, with the access that a job which ran here has to it."""
    for note in reversed(notes):
        if f"{note.sink.rstrip('/')}/" == uri:
            found = _noted(note, state)
            if isinstance(found, SinkOnly):
                return found
            sink = found.job.sink
            return SinkOnly(
                sink_uri=uri,
                state_path=found.state_path,
                endpoint_url=sink.endpoint_url,
                credentials=sink.credentials,
                note=note,
            )
    return SinkOnly(sink_uri=uri, state_path=state)


def _spec_named(name: str, here: Path) -> Path | None:
    """A spec in the current folder that describes a job of this name."""
    for file in _spec_files(here):
        try:
            if load_spec(here / file).tree.get("name") == name:
                return here / file
        except ModalbatchError:
            continue
    return None


def _spec_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())


def _secret_values(state: Path, name: str) -> dict[str, str]:
    """What `.modalbatch/secrets/NAME.env` says; without that file the environment speaks for itself."""
    path = state / "secrets" / f"{name}.env"
    if not path.is_file():
        return {}
    from modalbatch.engines.local.storage.secret import parse_dotenv

    return parse_dotenv(path.read_text(encoding="utf-8"))


def _engine_kind(found: Found) -> str:
    """Whose volumes are meant: the engine of the run, else of the last run of this sink here, else the one in force."""
    notes = [note for note in run_notes(found.state_path) if note.sink.rstrip("/") == found.sink_uri.rstrip("/")]
    note = found.note or (notes[-1] if notes else None)
    if note and note.engine.get("kind"):
        return note.engine["kind"]
    return choose_engine(None, os.environ).kind


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    # A client that talks to the local engine must see nothing of a real account.
    is_local = "MODALBATCH_LOCAL_ENGINE" in values
    before: dict[str, Any] = {}
    if is_local:
        before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MODAL_")}
    before |= {name: os.environ.get(name, before.get(name)) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
