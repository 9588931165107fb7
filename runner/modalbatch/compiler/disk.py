"""Looking at files beside the spec. Runs on: laptop. Owns questions that never raise: what cannot be is absent."""

from __future__ import annotations

import os
from pathlib import Path

from modalbatch.spec import secrecy
from modalbatch.spec.words import closest


def is_file(path: Path) -> bool:
    """Whether there is a regular file, or a link to one."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib's raises for names that are too long or may not be read


def is_dir(path: Path) -> bool:
    """Whether there is a folder, or a link to one."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def exists(path: Path) -> bool:
    """Whether there is anything."""
    return os.path.exists(path)  # noqa: PTH110 - as above


def near_path(root: Path, relative: str) -> str | None:
    """`did you mean …?` for a path that is not there, by the first segment that differs."""
    done = Path()
    for segment in Path(relative).parts:
        if exists(root / done / segment):
            done /= segment
            continue
        try:
            names = [entry.name for entry in (root / done).iterdir()]
        except OSError:
            return None
        near = closest(segment, names)
        return f"did you mean `{secrecy.printable((done / near).as_posix())}`?" if near else None
    return None
