"""The list of RPCs in the local engine's README, from its services. With `--check` it compares only."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from modalbatch.engines.local.wire import proto

FOLDER = Path(__file__).parents[1] / "runner" / "modalbatch" / "engines" / "local"
PAGE = FOLDER / "README.md"
START, END = "<!-- written by docs/make_rpcs.py; change the services, then `make format` -->\n", "<!-- end -->\n"


def services() -> Iterator[type]:
    """The classes whose methods answer RPCs, file by file."""
    for path in sorted((FOLDER / "services").glob("*.py")):
        module = importlib.import_module(f"modalbatch.engines.local.services.{path.stem}")
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if name.endswith("Service") and kind.__module__ == module.__name__:
                yield kind


def table() -> str:
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
    """Writes the list, or with `--check` says how it differs."""
    old = PAGE.read_text()
    before, rest = old.split(START)
    new = f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"
    if "--check" not in sys.argv:
        PAGE.write_text(new)
    elif new != old:
        sys.stderr.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(PAGE), "generated"))
        sys.stderr.write(f"{PAGE} is out of date: make format\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
