"""The document: YAML text as plain data with the place of every node. Runs on: laptop.

Owns reading the file and its encoding. Refuses more than 1 MiB, and anything that is not a map.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modalbatch.errors import SpecError, SpecErrors, Where
from modalbatch.spec import secrecy
from modalbatch.spec.mark import Mark, Trail, place
from modalbatch.spec.tree import TreeBuilder
from modalbatch.spec.words import closest

MAX_BYTES = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One spec as written: plain data and the place of every node."""

    #: As the user gave it.
    path: str
    #: The folder that the spec's own paths are relative to, absolute.
    dir: Path
    tree: Mapping[str, Any]
    #: Place of each key and of each value, by trail.
    keys: Mapping[Trail, Mark]
    values: Mapping[Trail, Mark]
    #: The text's lines; empty when it holds a private key.
    lines: tuple[str, ...] = ()
    #: Mistakes found while reading that leave the rest readable (a duplicate key, a tag).
    problems: tuple[SpecError, ...] = ()

    def where(self, trail: Trail, *, key: bool = False) -> Where:
        """The place of a value (or of its key); of the nearest node above when it was not written."""
        while trail and trail not in self.values:
            trail, key = trail[:-1], True
        mark = self.keys.get(trail) if key else None
        return place(self.path, mark or self.values.get(trail) or Mark(1, 1), self.lines)

    def raw(self, trail: Trail) -> str:
        """A scalar as written; empty for anything else."""
        mark = self.values.get(trail)
        return mark.raw if mark else ""


def load_spec(path: str | Path) -> Spec:
    """Read a spec. Mistakes that leave a tree are in `problems`; `resolve` raises them with its own.

    Raises:
        SpecErrors: the file cannot be read, is not YAML, or is not a map.
    """
    name = str(path)
    data = _read(Path(path), name)
    text = _decode(data, name)
    lines = () if secrecy.holds_private_key(text) else tuple(text.splitlines())
    builder = TreeBuilder(name, lines)
    root = builder.parse(text)
    if root is None or (root.kind == "scalar" and root.value is None):
        raise _stop(name, "the spec is empty", hint="`modalbatch init` writes a working one")
    if root.kind != "map":
        found = "a list" if root.kind == "list" else "a single value"
        raise _stop(name, f"a spec is a map of keys, this is {found}", mark=root.mark, lines=lines)
    tree = builder.expand(root)
    return Spec(
        path=name,
        dir=Path(path).resolve().parent,
        tree=MappingProxyType(tree),
        keys=MappingProxyType(builder.keys),
        values=MappingProxyType(builder.values),
        lines=lines,
        problems=tuple(builder.problems),
    )


def _stop(
    path: str, message: str, *, mark: Mark | None = None, lines: tuple[str, ...] = (), hint: str | None = None
) -> SpecErrors:
    where = place(path, mark or Mark(1, 1), lines)
    return SpecErrors([SpecError(message, where=where, hint=hint)])


def _read(path: Path, name: str) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _stop(name, "this is a folder, not a spec", hint="name the YAML file in it")
        if not stat.S_ISREG(mode):
            raise _stop(name, "this is not a regular file", hint="a spec is a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        try:
            beside = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
        except OSError:
            beside = []
        near = closest(path.name, beside)
        hint = f"did you mean `{path.parent / near}`?" if near else "`modalbatch init` writes a working spec"
        raise _stop(name, "there is no such file", hint=hint) from None
    except OSError as error:
        raise _stop(name, f"cannot be read: {(error.strerror or 'unknown error').lower()}") from None
    if len(data) > MAX_BYTES:
        raise _stop(name, "a spec has at most 1 MiB", hint="put data into files and name them in `source`")
    return data


def _decode(data: bytes, name: str) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise _stop(name, "the file is UTF-16, a spec is UTF-8", hint="save it as UTF-8")
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        message = f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8"
        raise _stop(name, message, mark=Mark(line, column), hint="save it as UTF-8") from None
