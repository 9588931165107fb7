"""The tables in the local engine's README: features, from its tests; RPCs, from its services.

With `--check` it compares only.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from generated import write_or_check

from modalbatch.engines.local.wire import proto

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "runner" / "modalbatch" / "engines" / "local"
TESTS = ROOT / "tests" / "engine"
PAGE = FOLDER / "README.md"
BEGIN, END = "<!-- {} by docs/make_engine.py: make format -->\n", "<!-- end of {} -->\n"


def features() -> str:
    """What each test of the engine shows, by the test's own name."""
    lines = ["| | what the tests show, with the real client |", "|---|---|"]
    for path in sorted(TESTS.glob("test_*.py")):
        module = ast.parse(path.read_text())
        about = (ast.get_docstring(module) or "").splitlines()[0].rstrip(".")
        tests = [item for item in module.body if isinstance(item, ast.FunctionDef) and item.name.startswith("test_")]
        shown = [_sentence(test) for test in tests]
        lines.append(f"| [{about}](../../../../tests/engine/{path.name}) | {' · '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _sentence(test: ast.FunctionDef) -> str:
    name, doc = test.name.removeprefix("test_").replace("_", " "), ast.get_docstring(test) or ""
    doc = re.sub(r"^F\d\d[^:]*:?\s*", "", doc)  # rows of the fault matrix
    return f"{name} ({' '.join(doc.split()).rstrip('.')})" if doc else name


def services() -> Iterator[type]:
    """The classes whose methods answer RPCs, file by file."""
    for path in sorted((FOLDER / "services").glob("*.py")):
        module = importlib.import_module(f"modalbatch.engines.local.services.{path.stem}")
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if name.endswith("Service") and kind.__module__ == module.__name__:
                yield kind


def rpcs() -> str:
    """Every RPC that is answered, in a table by service."""
    known = [method.name for method in proto.DESCRIPTOR.services_by_name["ModalClient"].methods]
    lines = []
    for service in services():
        doc = (service.__doc__ or "").splitlines()[0]
        lines += ["", f"`{service.__name__}`: {doc}", "", "| RPC | |", "|---|---|"]
        names: dict[object, list[str]] = {}  # some do the same in two versions
        for name in sorted(set(known) & set(vars(service))):
            names.setdefault(vars(service)[name], []).append(f"`{name}`")
        lines += [
            f"| {', '.join(same)} | {(handler.__doc__ or '').splitlines()[0]} |" for handler, same in names.items()
        ]
    return "\n".join(lines[1:]) + "\n"


def main() -> int:
    """Writes the tables, or with `--check` says how they differ."""
    new = PAGE.read_text()
    for name, table in (("features", features()), ("rpcs", rpcs())):
        before, begin, rest = new.partition(BEGIN.format(name))
        _, end, after = rest.partition(END.format(name))
        new = f"{before}{begin}\n{table}\n{end}{after}"
    return write_or_check(PAGE, new)


if __name__ == "__main__":
    sys.exit(main())
