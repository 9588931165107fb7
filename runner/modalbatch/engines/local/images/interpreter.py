"""Python interpreters of this machine. Runs on: laptop.

Owns the choice for an image: the minor version that it wants, else the nearest that there is. It looks where pyenv, uv,
`PATH` and the system keep them, which costs a few milliseconds, so that a Python installed a moment ago is found. Only
what an executable said of itself is kept. Installing is `managed.py`'s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Minor versions of Python 3 that the supported range of modal runs on.
SUPPORTED_MINORS = range(10, 15)
#: The folder of the cache that holds those that were installed for us.
PYTHONS = "pythons"
_PROBE = "import sys; print(sys._base_executable or sys.executable); print('.'.join(map(str, sys.version_info[:3])))"
_PROBE_LIMIT_S = 5
_MAX_KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """One installed Python."""

    path: str
    #: "3.11.7"
    version: str

    @property
    def minor(self) -> int:
        """7 of "3.7.1"."""
        return int(self.version.split(".")[1])


def own_interpreter() -> Interpreter:
    """The interpreter that runs this process, outside of its virtual environment."""
    path = getattr(sys, "_base_executable", None) or sys.executable
    return Interpreter(path=path, version=".".join(map(str, sys.version_info[:3])))


def choose_interpreter(
    wanted: str, cache_folder: Path, environ: Mapping[str, str], install: Callable[[int], bool]
) -> tuple[Interpreter, str]:
    """The interpreter for a version like "3.12" ("" for our own), and a note when it is not that one.

    `cache_folder` keeps what executables said, also when it was of no use, so that none is started twice. `install`
    is asked to bring a minor version into the folder `pythons` in there when this machine has none.
    """
    own = own_interpreter()
    minor = int(wanted.split(".")[1]) if wanted else own.minor
    if minor == own.minor:
        return own, ""
    probes = _Probes(cache_folder)
    found = next(probes.interpreters(minor, environ), None)
    if found is None and install(minor):
        found = next(probes.interpreters(minor, environ), None)
    if found is not None:
        return found, ""
    others = [own]
    for other in SUPPORTED_MINORS:
        if other not in (own.minor, minor):
            others += list(probes.interpreters(other, environ))[:1]
    nearest = min(others, key=lambda other: (abs(other.minor - minor), -other.minor))
    return nearest, f"python 3.{minor} is not installed here: using {nearest.version}"


class _Probes:
    """What executables said of themselves, by path and time of change."""

    def __init__(self, cache_folder: Path) -> None:
        self._path = cache_folder / "interpreters.json"
        self._pythons = cache_folder / PYTHONS
        self._told: dict[str, list[str]] = {}
        try:
            self._told = json.loads(self._path.read_text())["told"]
        except (OSError, ValueError, KeyError, TypeError):  # new, or of an older version
            pass

    def interpreters(self, minor: int, environ: Mapping[str, str]) -> Iterator[Interpreter]:
        """Every Python 3.`minor`, the preferred one first; lazy."""
        for path in _candidates(minor, environ, self._pythons):
            told = self._ask(path)
            if told and told[1].startswith(f"3.{minor}."):
                yield Interpreter(path=told[0], version=told[1])

    def _ask(self, path: Path) -> list[str]:
        key = f"{path} {path.stat().st_mtime_ns}"
        if key not in self._told:
            self._told[key] = _probe(path)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A name of its own: functions of one app are created at the same time, each in a thread.
            handle, draft = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}-")
            with os.fdopen(handle, "w") as file:
                json.dump({"told": dict(list(self._told.items())[-_MAX_KEPT:])}, file)
            Path(draft).replace(self._path)
        return self._told[key]


def _candidates(minor: int, environ: Mapping[str, str], pythons: Path) -> Iterator[Path]:
    """Executables that may be a Python 3.`minor`, by where they are; each is there."""
    home, name = Path(environ.get("HOME") or Path.home()), f"python3.{minor}"
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    managed = Path(environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    # Last the system's own: a PATH may be as short as one folder.
    on_path = [Path(folder) for folder in environ.get("PATH", "").split(os.pathsep) if folder]
    folders = dict.fromkeys([*on_path, Path("/usr/local/bin"), Path("/usr/bin")])
    places = sorted(pyenv.glob(f"3.{minor}.*/bin/{name}"), reverse=True)
    places += [folder / name for folder in folders]
    for folder in (managed, pythons):
        places += sorted(folder.glob(f"cpython-3.{minor}.*/bin/{name}"), reverse=True)
    return (path for path in places if os.access(path, os.X_OK) and path.is_file())


def _probe(path: Path) -> list[str]:
    """Base executable and version; empty for what is no Python, as a pyenv shim without that version."""
    try:
        told = subprocess.run(
            [path, "-I", "-c", _PROBE], capture_output=True, text=True, check=False, timeout=_PROBE_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = told.stdout.splitlines()
    return lines if told.returncode == 0 and len(lines) == 2 else []
