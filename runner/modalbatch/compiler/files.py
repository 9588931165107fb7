"""Files beside the spec that decide the image: Dockerfile, requirements, mounted folders. Runs on: laptop.

Owns their existence and their hashes, which stand in the job for their content. Refuses what is not there.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modalbatch.compiler import disk
from modalbatch.spec import secrecy
from modalbatch.spec.mark import Trail
from modalbatch.spec.problem import Problems

Json = dict[str, Any]


def base(problems: Problems, given: Any) -> tuple[str | Json, str | None]:
    """`image.base` with a Dockerfile in its long form, and the hash of the Dockerfile."""
    if not isinstance(given, dict) or "dockerfile" not in given:
        return given, None
    short = isinstance(given["dockerfile"], str)
    long: Json = {"path": given["dockerfile"]} if short else dict(given["dockerfile"])
    trail: Trail = ("image", "base", "dockerfile")
    path = _file(problems, trail if short else (*trail, "path"), long["path"])
    if "context_dir" in long:
        _folder(problems, (*trail, "context_dir"), long["context_dir"])
    # `Image.from_dockerfile` calls the registry's secret otherwise than `from_registry` does.
    rest = {"registry_secret" if key == "secret" else key: value for key, value in given.items()}
    return {**rest, "dockerfile": long}, _hash(problems, trail, path) if path else None


def requirements(problems: Problems, given: Any) -> Json | None:
    """`image.requirements` with the hash of what it names."""
    trail: Trail = ("image", "requirements")
    if given is None:
        return None
    if isinstance(given, str):
        path = _file(problems, trail, given)
        return {"path": posixpath.normpath(given), "sha256": _hash(problems, trail, path)} if path else None
    folder = _folder(problems, (*trail, "uv_sync"), given["uv_sync"])
    if folder is None:
        return None
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "uv.lock"):
        if not disk.is_file(folder / name):
            message = f"the uv project {secrecy.shown(given['uv_sync'])} has no `{name}`"
            problems.add((*trail, "uv_sync"), message, "`uv lock` writes it" if name == "uv.lock" else "`uv init`")
            return None
        digest.update(_hash(problems, trail, folder / name).encode())
    return {"uv_sync": posixpath.normpath(given["uv_sync"]), "sha256": digest.hexdigest()}


def add_local(problems: Problems, given: Json) -> tuple[Json, ...]:
    """`image.add_local` with hashes; a folder's path ends with `/`."""
    out = []
    for local, remote in given.items():
        trail: Trail = ("image", "add_local", local)
        path = problems.spec.dir / local
        if not disk.exists(path):
            hint = disk.near_path(problems.spec.dir, local)
            problems.add(trail, f"there is no file or folder {secrecy.shown(local)}", hint, at_key=True)
            continue
        name = posixpath.normpath(local)
        sha256 = _hash(problems, trail, path, _sha256_tree)
        out.append({"local": f"{name}/" if disk.is_dir(path) else name, "remote": remote, "sha256": sha256})
    return tuple(out)


def _file(problems: Problems, trail: Trail, relative: str) -> Path | None:
    path = problems.spec.dir / relative
    if disk.is_file(path):
        return path
    problems.add(trail, f"there is no file {secrecy.shown(relative)}", disk.near_path(problems.spec.dir, relative))
    return None


def _folder(problems: Problems, trail: Trail, relative: str) -> Path | None:
    path = problems.spec.dir / relative
    if disk.is_dir(path):
        return path
    problems.add(trail, f"there is no folder {secrecy.shown(relative)}", disk.near_path(problems.spec.dir, relative))
    return None


def _hash(problems: Problems, trail: Trail, path: Path, of: Callable[[Path], str] | None = None) -> str:
    try:
        return (of or _sha256_text)(path)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        problems.add(trail, f"{secrecy.shown(error.filename or path.name)} cannot be read: {reason}")
        return ""


def _sha256_text(path: Path) -> str:
    """Line ends do not count: a checkout on another system is the same content."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _sha256_tree(path: Path) -> str:
    """Names and bytes of a file or of all files in a folder; caches of Python are left out, as in the image."""
    digest = hashlib.sha256()
    found = [path] if disk.is_file(path) else sorted(item for item in path.rglob("*") if item.is_file())
    for item in found:
        if "__pycache__" in item.parts:
            continue
        name = item.name if item == path else item.relative_to(path).as_posix()
        with item.open("rb") as file:
            content = hashlib.sha256()
            while block := file.read(1 << 20):
                content.update(block)
        digest.update(f"{name}\0{content.hexdigest()}\n".encode())
    return digest.hexdigest()
