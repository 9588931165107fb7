"""The spec's references to code, checked. Runs on: laptop.

Owns what is wrong with `handler`, `image.pipe` and `image.source` before anything is imported: modules and names that
are not there, parameters that do not fit, local modules that nobody mounts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modalbatch.compiler import discover
from modalbatch.compiler.discover import Definition, Module, Parameters
from modalbatch.errors import Where
from modalbatch.spec import secrecy
from modalbatch.spec.mark import Mark, Trail, place
from modalbatch.spec.problem import Problems
from modalbatch.spec.words import closest, listed, meant


def check_handler(problems: Problems, trail: Trail, call: str, handler: dict[str, Any]) -> None:
    """The handler's module, name and parameters; `trail` is where `call` stands."""
    found = _find(problems, trail, call, "handler")
    if found is None:
        return
    module, definition = found
    name = definition.name
    at = f"{_shown_path(problems, module.path)}:{definition.line}"
    if definition.kind == "value":
        problems.add(trail, f"`{name}` is a value, not a function or class ({at})", "name a function or class")
    elif definition.is_uncallable:
        hint = f"add `def __call__(self, record):` to `{name}`"
        problems.add(trail, f"the class `{name}` has no `__call__` ({at})", hint)
    elif definition.kind == "class":
        _check_arguments(problems, trail, definition.parameters, handler, f"the constructor of `{name}`", at=at)
        _check_arity(problems, trail, definition.call, f"`{name}.__call__`", at=at)
    elif definition.kind == "function" and definition.parameters:
        given = tuple(handler.get("args", {}))
        _check_arity(problems, trail, definition.parameters, f"`{name}`", at=at, given=given)
        if definition.parameters.positional:
            _check_arguments(problems, trail, definition.parameters, handler, f"`{name}`", at=at, is_function=True)


def check_pipe(problems: Problems, pipe: str) -> None:
    """`image.pipe` names a function of one parameter."""
    trail = ("image", "pipe")
    found = _find(problems, trail, pipe, "image.pipe")
    if found is None:
        return
    module, definition = found
    if definition.kind in ("value", "class"):
        at = f"{_shown_path(problems, module.path)}:{definition.line}"
        problems.add(trail, f"`{definition.name}` is not a function ({at})", "name a function Image → Image")


def check_modules(problems: Problems, handler_module: str | None, sources: list[tuple[Trail, str]]) -> None:
    """`image.source` names modules that exist, and no mounted module imports a local one that is not mounted."""
    folder = problems.spec.dir
    mounted = {name for _, name in sources}
    for trail, name in sources:
        if discover.is_reserved(name):
            problems.add(trail, f"`{name}` is a module of Python, modal or modalbatch", "rename yours")
        elif not discover.has_module(folder, name):
            hint = meant(name, discover.modules_beside(folder)) or "modules lie beside the spec"
            problems.add(trail, f"there is no module `{name}` beside the spec", hint)
    if handler_module:
        _check_imports(problems, handler_module, mounted | {handler_module.partition(".")[0]})


def _check_imports(problems: Problems, start: str, mounted: set[str]) -> None:
    missing = _unmounted(problems.spec.dir, [start, *sorted(mounted)], mounted)
    modules = sorted((mounted | set(missing)) - {start.partition(".")[0]})
    hint = f"write `source: [{', '.join(modules)}]` under `image`"
    for name, (path, line, column) in missing.items():
        message = f"`{name}` lies beside the spec, but the app does not mount it"
        where = _code_place(problems, path, line, column)
        problems.add(("image", "source"), message, hint, where=where)


def _unmounted(folder: Path, queue: list[str], mounted: set[str]) -> dict[str, tuple[Path, int, int]]:
    """Local modules that mounted ones import and that are not mounted → the first statement that does."""
    found: dict[str, tuple[Path, int, int]] = {}
    # Importing `a.b` imports `a` first.
    for dotted in dict.fromkeys(prefix for name in queue for prefix in _prefixes(name)):
        path = discover.find_module(folder, dotted)
        if path is None:
            continue
        try:
            module = discover.read_module(path)
        except (SyntaxError, OSError):
            continue  # `_find` tells it of the handler; of others the import itself
        for name, (line, column) in module.imports.items():
            is_known = name in mounted or name in found or discover.is_reserved(name)
            if not is_known and discover.has_module(folder, name):
                found[name] = (path, line, column)
    return found


def _prefixes(dotted: str) -> list[str]:
    parts = dotted.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _find(problems: Problems, trail: Trail, call: str, key: str) -> tuple[Module, Definition] | None:
    """The module and definition of `module:name`, or None after reporting why not."""
    dotted, _, name = call.partition(":")
    folder = problems.spec.dir
    top = dotted.partition(".")[0]
    if discover.is_reserved(top):
        message = f"the module `{top}` would hide a module of Python, modal or modalbatch"
        problems.add(trail, message, f"rename `{top}.py`, for example to `my_{top}.py`")
        return None
    path = discover.find_module(folder, dotted)
    if path is None:
        file = f"{dotted.replace('.', '/')}.py"
        near = _near_module(folder, dotted, name)
        hint = near or f"create `{file}` beside the spec, with `def {name}(record):`"
        problems.add(trail, f"there is no module `{dotted}`: `{file}` does not exist", hint)
        return None
    try:
        module = discover.read_module(path)
    except SyntaxError as error:
        where = _code_place(problems, path, error.lineno or 1, error.offset or 1)
        problems.add(trail, f"`{key}` cannot be read: {error.msg}", "fix the syntax", where=where)
        return None
    except OSError as error:
        problems.add(trail, f"`{_shown_path(problems, path)}` cannot be read: {(error.strerror or '').lower()}")
        return None
    if name in module.definitions:
        return module, module.definitions[name]
    if not module.is_open:
        shown = _shown_path(problems, path)
        public = [item.name for item in module.definitions.values() if item.kind in ("function", "class")]
        defines = f"it defines {listed(public[:8], 'and')}" if public else f"add `def {name}(record):`"
        near = meant(name, module.definitions)
        problems.add(trail, f"`{shown}` does not define `{name}`", near or defines)
    return None


def _near_module(folder: Path, dotted: str, name: str) -> str | None:
    parent, _, last = dotted.rpartition(".")
    inside = folder.joinpath(*parent.split(".")) if parent else folder
    near = closest(last, discover.modules_beside(inside))
    return f"did you mean `{parent + '.' if parent else ''}{near}:{name}`?" if near else None


def _check_arity(
    problems: Problems, trail: Trail, known: Parameters | None, what: str, *, at: str, given: tuple[str, ...] = ()
) -> None:
    """A call with one positional argument, the record, must fit."""
    if known is None:
        return
    if not known.positional and not known.has_args:
        problems.add(trail, f"{what} takes no positional parameter, it gets the record ({at})", "add a parameter")
        return
    needed = [name for name in known.required if name not in known.positional[:1]]
    missing = _missing(needed, known, given)
    if missing:
        hint = f"give them a default, or values under `handler.args`: {listed(missing, 'and')}"
        if not given and what.endswith("__call__`"):
            hint = "give them a default"
        problems.add(trail, f"{what} needs more than the record: {listed(missing, 'and')} ({at})", hint)


def _missing(needed: Iterable[str], known: Parameters, given: Iterable[str]) -> list[str]:
    """Needed names that are not given; a misspelled one is told at its place."""
    misspelled = {closest(name, known.named) for name in given if name not in known.named}
    return [name for name in needed if name not in given and name not in misspelled]


def _check_arguments(
    problems: Problems,
    trail: Trail,
    known: Parameters | None,
    handler: dict[str, Any],
    what: str,
    *,
    at: str,
    is_function: bool = False,
) -> None:
    """`handler.args` against the parameters."""
    given = handler.get("args", {})
    if known is None:
        return
    record = known.positional[0] if is_function and known.positional else None
    for name in given:
        here = ("handler", "args", name)
        if name == record:
            problems.add(here, f"`{name}` of {what} is the record itself ({at})", "remove it", at_key=True)
        elif name not in known.named and not known.has_kwargs:
            names = [item for item in known.named if item != record]
            hint = meant(name, names) or (f"it has {listed(names, 'and')}" if names else "it has none to set")
            problems.add(here, f"{what} has no parameter {secrecy.shown(name)} ({at})", hint, at_key=True)
    missing = _missing(known.required, known, given)
    if not is_function and missing:
        hint = f"add `args: {{{', '.join(f'{name}: …' for name in missing)}}}` to `handler`"
        problems.add(trail, f"{what} needs {listed(missing, 'and')} ({at})", hint)


def _shown_path(problems: Problems, path: Path) -> str:
    """A path beside the spec, as the user would write it from where the spec was named."""
    inside = os.path.relpath(path, problems.spec.dir)
    return os.path.normpath(Path(problems.spec.path).parent / inside)


def _code_place(problems: Problems, path: Path, line: int, column: int) -> Where:
    try:
        lines = tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        lines = ()
    return place(_shown_path(problems, path), Mark(line, max(1, column)), lines)
