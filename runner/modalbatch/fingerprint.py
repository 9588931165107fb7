"""The fingerprint of a job: what decides its data, and nothing else. Runs on: both.

Owns which fields of a job count, and how its code is hashed: on the laptop and in a container alike.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from modalbatch.job import Job, dump

Json = dict[str, Any]

#: Bumped when the list of fields below changes its meaning; pinned by golden jobs in the tests.
FINGERPRINT_FORMAT = 1


def fingerprint(job: Job, code_sha256: str) -> str:
    """64 hex digits over what decides the job's data, and nothing else (`guarantees.md` section 2).

    `code_sha256` is `hash_code` of the mounted modules. Keys at their default are left out, so that a new key
    changes no old fingerprint.
    """
    text = json.dumps(deciding(job, code_sha256), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def deciding(job: Job, code_sha256: str) -> Json:
    """What the fingerprint is a hash of, as plain data."""
    decides: Json = {
        "format": FINGERPRINT_FORMAT,
        "handler": _only(dump(job.handler), "call", "args", "batch_size", "keep"),
        "on_error": _only(dump(job.on_error), "record"),
        "source": _only(dump(job.source), "format", "compression", "split", "max_record_bytes"),
        "sink": _only(dump(job.sink), "format", "compression"),
        "env": job.env,
    }
    if job.handler.version is not None:
        decides["version"] = job.handler.version
    else:
        decides["code"] = code_sha256
        image = dump(job.image)
        # A file's path does not decide data, its content does.
        decides["image"] = {key: _without_paths(value) for key, value in image.items()}
    return decides


def _only(data: Json, *names: str) -> Json:
    return {name: data[name] for name in names if name in data}


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_paths(item)
            for key, item in value.items()
            if not (key in ("path", "local") and "sha256" in value)
        }
    return [_without_paths(item) for item in value] if isinstance(value, list) else value


def hash_code(modules: Iterable[str], roots: Iterable[Path | str] | None = None) -> str:
    """sha256 over the `.py` files (LF line ends) of top-level modules, found in `roots` or on `sys.path`.

    Imports nothing. A module that is not there hashes as absent: importing it will say so better.
    """
    digest = hashlib.sha256()
    for name, sha256 in code_files(modules, roots):
        digest.update(f"{name}\0{sha256}\n".encode())
    return digest.hexdigest()


def code_files(modules: Iterable[str], roots: Iterable[Path | str] | None = None) -> Iterator[tuple[str, str]]:
    """Name (below its root) and sha256 of each file that `hash_code` reads."""
    searched = [Path(root) for root in (sys.path if roots is None else roots)]
    for module in sorted(modules):
        for name, path in _module_files(module, searched):
            yield name, hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _module_files(module: str, roots: list[Path]) -> list[tuple[str, Path]]:
    for root in roots:
        if (root / f"{module}.py").is_file():
            return [(f"{module}.py", root / f"{module}.py")]
        if (root / module).is_dir():
            found = sorted((root / module).rglob("*.py"))
            found = [path for path in found if "__pycache__" not in path.parts]
            if found:
                return [(path.relative_to(root).as_posix(), path) for path in found]
    return []
