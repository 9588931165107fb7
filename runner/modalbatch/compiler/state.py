"""The `.modalbatch/` folder: where generated apps and the local engine live. Runs on: laptop.

Owns where it is; refuses to hold anything that a run needs to be right: deleting it loses no result.
"""

from __future__ import annotations

import os
from pathlib import Path


def state_dir(spec_dir: Path) -> Path:
    """`MODALBATCH_HOME`, else `.modalbatch/` at the root of the git repository, else beside the spec.

    The folder exists afterwards and is ignored by git.
    """
    folder = state_path(spec_dir)
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return folder


def default_path(spec_dir: Path, name: str) -> Path:
    """Where the app of the job `name` goes unless someone says otherwise; creates nothing."""
    return state_path(spec_dir) / "apps" / name / app_file(name)


def app_file(name: str) -> str:
    """The file name of a job's app, which shadows no module of the user."""
    return f"mb_{name.replace('-', '_')}.py"


def state_path(spec_dir: Path) -> Path:
    """Where `state_dir` is; creates nothing."""
    home = os.environ.get("MODALBATCH_HOME")
    return Path(home).expanduser().resolve() if home else _root(spec_dir.resolve()) / ".modalbatch"


def _root(folder: Path) -> Path:
    # `.git` is a file in worktrees and submodules.
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder)
