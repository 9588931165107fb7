"""Why a fingerprint is another one. Runs on: both.

Owns the short hashes of everything that decides a job's data, which each run leaves in its `plan.json`: a plan compares
them to say what changed. Holds no values: env and args stay where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modalbatch.canonical import encode
from modalbatch.fingerprint import code_files, deciding
from modalbatch.job import Job

#: Digits of a hash; only for telling "the same" from "another".
_DIGITS = 12


def leaves(job: Job, roots: Iterable[Path | str] | None = None) -> dict[str, str]:
    """Key of the spec, or name of a source file, to a short hash of its value; files are found as `hash_code` does."""
    decides = deciding(job, "")
    has_code = decides.pop("code", None) is not None
    found = dict(_walk(decides, ""))
    if has_code:
        found |= {name: sha256[:_DIGITS] for name, sha256 in code_files(job.modules, roots)}
    return found


def changed(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Names whose value is another one, new or gone; files first."""
    names = [name for name in {*old, *new} if old.get(name) != new.get(name)]
    return sorted(names, key=lambda name: (not name.endswith(".py"), name))


def _walk(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _walk(item, f"{key}.{name}" if key else str(name))
    elif key != "format" and value != {}:
        yield key, hashlib.sha256(encode(value).encode()).hexdigest()[:_DIGITS]
