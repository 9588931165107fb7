"""What the user's modules define, read from their text. Runs on: laptop.

Owns finding modules beside the spec, their top-level names, parameters and imports, by AST. Refuses to import or run
anything: `validate` is safe on code of strangers.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modalbatch.compiler.disk import is_dir, is_file

#: A larger source file is no handler.
_MAX_BYTES = 4 << 20
_RESERVED = frozenset(sys.stdlib_module_names) | {"modal", "modalbatch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The parameters of a callable that can be read off its `def`."""

    #: Positional ones in order, without `self`.
    positional: tuple[str, ...] = ()
    #: Those of any kind that have no default.
    required: tuple[str, ...] = ()
    #: Those that may be given by name.
    named: tuple[str, ...] = ()
    has_args: bool = False
    has_kwargs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A top-level name of a module."""

    name: str
    line: int
    #: `function`, `class`, `value` (a literal, not callable) or `unknown` (assigned, imported, decorated).
    kind: str
    #: Of a function, or of a class's constructor; None where the text does not tell.
    parameters: Parameters | None = None
    #: Of a class's `__call__`; None where the text does not tell.
    call: Parameters | None = None
    #: Whether a class certainly has no `__call__`.
    is_uncallable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A parsed module."""

    path: Path
    definitions: dict[str, Definition] = field(default_factory=dict)
    #: Top-level modules that importing this one certainly imports → line, column of the statement (1-based).
    imports: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Whether `from x import *` or `__getattr__` may define further names.
    is_open: bool = False


def is_reserved(name: str) -> bool:
    """Whether a top-level module name belongs to Python, modal or modalbatch."""
    return name in _RESERVED


def find_module(folder: Path, dotted: str) -> Path | None:
    """The file of a module below `folder`, or None."""
    base = folder.joinpath(*dotted.split("."))
    for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
        if is_file(path):
            return path
    return None


def has_module(folder: Path, name: str) -> bool:
    """Whether a top-level module or package of this name lies in `folder`, with or without `__init__.py`."""
    if find_module(folder, name):
        return True
    return is_dir(folder / name) and next((folder / name).glob("*.py"), None) is not None


def modules_beside(folder: Path) -> list[str]:
    """Top-level modules and packages in `folder`, sorted."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    names = {path.stem for path in entries if path.suffix == ".py"}
    names |= {
        path.name for path in entries if path.is_dir() and path.name.isidentifier() and has_module(folder, path.name)
    }
    return sorted(name for name in names if name.isidentifier())


def read_module(path: Path) -> Module:
    """Parse a module; nothing of it runs.

    Raises:
        SyntaxError: it is not Python; line and column are set where they are known.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise SyntaxError("the file is larger than 4 MiB")
    if b"\0" in data:
        raise SyntaxError("the file is not text")
    try:
        tree = ast.parse(data)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError("the file is not text that Python reads") from error
    definitions: dict[str, Definition] = {}
    for statement in _top_level(tree.body):
        for item in _define(statement):
            definitions[item.name] = item
    stars = any(isinstance(s, ast.ImportFrom) and s.names[0].name == "*" for s in _top_level(tree.body))
    return Module(
        path=path,
        definitions=definitions,
        imports=dict(_imports(tree.body)),
        is_open=stars or "__getattr__" in definitions,
    )


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that define names of the module, those under `if`, `try` and `with` too."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
            for part in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from _top_level(handler.body)


def _define(statement: ast.stmt) -> Iterator[Definition]:
    line = getattr(statement, "lineno", 0)
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        known = None if statement.decorator_list else _parameters(statement, is_method=False)
        yield Definition(name=statement.name, line=line, kind="function", parameters=known)
    elif isinstance(statement, ast.ClassDef):
        yield _define_class(statement)
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
        literals = (ast.Constant, ast.List, ast.Dict, ast.Set, ast.Tuple, ast.JoinedStr)
        kind = "value" if isinstance(statement.value, literals) else "unknown"
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            for name in ast.walk(target):
                if isinstance(name, ast.Name):
                    yield Definition(name=name.id, line=line, kind=kind)
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        for alias in statement.names:
            yield Definition(name=alias.asname or alias.name.partition(".")[0], line=line, kind="unknown")


def _define_class(statement: ast.ClassDef) -> Definition:
    name, line = statement.name, statement.lineno
    if statement.decorator_list or statement.keywords or any(not _is_object(base) for base in statement.bases):
        # A base, metaclass or decorator may bring its own constructor and `__call__`.
        return Definition(name=name, line=line, kind="class")
    methods = {
        item.name: None if item.decorator_list else _parameters(item, is_method=True)
        for item in statement.body
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assigned = {item.name for part in statement.body for item in _define(part) if item.name not in methods}
    constructor = methods.get("__init__") if "__init__" in methods else Parameters()
    if {"__init__", "__new__"} & assigned or "__new__" in methods:
        constructor = None
    return Definition(
        name=name,
        line=line,
        kind="class",
        parameters=constructor,
        call=methods.get("__call__"),
        is_uncallable="__call__" not in methods and "__call__" not in assigned,
    )


def _is_object(base: ast.expr) -> bool:
    return isinstance(base, ast.Name) and base.id == "object"


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, *, is_method: bool) -> Parameters:
    given = function.args
    positional = [item.arg for item in (*given.posonlyargs, *given.args)]
    required = positional[: len(positional) - len(given.defaults)]
    keyword_only = [item.arg for item in given.kwonlyargs]
    required_only = [name for name, default in zip(keyword_only, given.kw_defaults, strict=True) if default is None]
    skip = 1 if is_method and positional else 0
    by_name = [item.arg for item in given.args][max(0, skip - len(given.posonlyargs)) :]
    return Parameters(
        positional=tuple(positional[skip:]),
        required=(*required[skip:], *required_only),
        named=(*by_name, *keyword_only),
        has_args=given.vararg is not None,
        has_kwargs=given.kwarg is not None,
    )


def _imports(body: list[ast.stmt]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Absolute imports that run whenever the module is imported: not those under `if`, `try` or in functions."""
    for statement in body:
        place = (getattr(statement, "lineno", 1), getattr(statement, "col_offset", 0) + 1)
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield alias.name.partition(".")[0], place
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0 and statement.module:
            yield statement.module.partition(".")[0], place
