"""Python interpreters of this machine. Runs on: laptop.

Owns the choice for an image: the minor version that it wants, else the nearest that there is. Installs none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

#: Minor versions of Python 3 that the supported range of modal runs on.
SUPPORTED_MINORS = range(10, 15)
_PROBE = "import sys; print(sys._base_executable or sys.executable); print('.'.join(map(str, sys.version_info[:3])))"
_PROBE_LIMIT_S = 20


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


def choose_interpreter(wanted: str, cache_path: Path, uv_path: str) -> tuple[Interpreter, str]:
    """The interpreter for a version like "3.12" ("" for our own), and a note when it is not that one.

    Finding is slow (it starts interpreters), so findings are kept in `cache_path`.
    """
    own = own_interpreter()
    minor = int(wanted.split(".")[1]) if wanted else own.minor
    if minor == own.minor:
        return own, ""
    found = _find(minor, cache_path, uv_path)
    if found is not None:
        return found, ""
    others = [own] + [
        other for m in SUPPORTED_MINORS if m not in (own.minor, minor) and (other := _find(m, cache_path, uv_path))
    ]
    nearest = min(others, key=lambda other: (abs(other.minor - minor), -other.minor))
    return nearest, f"python 3.{minor} is not installed here: using {nearest.version}"


def _find(minor: int, cache_path: Path, uv_path: str) -> Interpreter | None:
    known: dict[str, list[str]] = json.loads(cache_path.read_text()) if cache_path.exists() else {}
    entry = known.get(str(minor))
    if entry and Path(entry[0]).exists():
        return Interpreter(path=entry[0], version=entry[1])
    for candidate in _candidates(minor, uv_path):
        found = _probe(candidate)
        if found is not None and found.minor == minor:
            known[str(minor)] = [found.path, found.version]
            cache_path.parent.mkdir(parents=True, exist_ok=True)
            draft = cache_path.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(known))
            draft.replace(cache_path)
            return found
    return None


def _candidates(minor: int, uv_path: str) -> list[str]:
    name = f"3.{minor}"
    places = [shutil.which(f"python{name}") or ""]
    found = sorted((Path.home() / ".pyenv" / "versions").glob(f"{name}.*/bin/python"), reverse=True)
    places += [str(path) for path in found]
    command = [uv_path, "python", "find", "--no-project", "--no-python-downloads", name]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    places += told.stdout.split("\n")[:1] if told.returncode == 0 else []
    return [place for place in places if place]


def _probe(path: str) -> Interpreter | None:
    """What an executable says of itself; a pyenv shim without that version says nothing."""
    try:
        told = subprocess.run(
            [path, "-I", "-c", _PROBE], capture_output=True, text=True, check=False, timeout=_PROBE_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = told.stdout.split()
    return Interpreter(path=lines[0], version=lines[1]) if told.returncode == 0 and len(lines) == 2 else None
