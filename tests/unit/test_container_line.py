"""The container line and the arrows between the folders, by really importing and by reading every import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "runner" / "modalbatch"
#: What never runs in a container.
BELOW = {"spec", "compiler", "engines", "report", "cli"}
_DATA = {"errors", "units", "job", "canonical", "names", "records"}
_PLACES = {*_DATA, "formats", "stores"}
_WORKING = {*_PLACES, "fingerprint", "sources", "sinks"}
#: Folder or module → what of ours it may import. Anything not here stands below the line.
ABOVE: dict[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "gpu": set(),
    "job": {"errors", "units"},
    "canonical": {"errors"},
    "fingerprint": {"job"},
    "names": set(),
    "records": {"errors", "canonical", "names"},
    "formats": _DATA,
    "stores": _DATA,
    "sources": _PLACES,
    "sinks": _PLACES,
    "runtime": _WORKING,
    "driver": _WORKING,
}
#: The same below the line; what stands above it is free to use.
ARROWS: dict[str, set[str]] = {
    "spec": set(),
    "compiler": {"spec"},
    "report": set(),
    "engines": {"compiler"},
    "cli": BELOW,
}


def parts(folder: str) -> Iterator[tuple[Path, str]]:
    """Every file of a folder or module, with its dotted name."""
    root = ROOT / folder
    for path in sorted(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]:
        name = path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".")
        yield path, name.removesuffix(".__init__")


def imported(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Line and folder of ours of every import, at any depth, also those for type checkers."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found = [f"{module}.{alias.name}" for alias in node.names]
        for item in found:
            if item.split(".")[0] == "modalbatch" and len(item.split(".")) > 1:
                yield node.lineno, item.split(".")[1]


def test_every_folder_stands_on_one_side_of_the_line() -> None:
    found = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__", "__main__", "py"} == set(ABOVE) | set(ARROWS)


@pytest.mark.parametrize("folder", [*ABOVE, *ARROWS])
def test_arrows(folder: str) -> None:
    known = set(ABOVE) | set(ARROWS)
    allowed = {folder} | (ABOVE[folder] if folder in ABOVE else ARROWS[folder] | set(ABOVE))
    wrong = [
        f"{name}:{line} imports modalbatch.{item}"
        for path, name in parts(folder)
        for line, item in imported(path, name)
        if item in known - allowed
    ]
    assert wrong == []


POISON = """
import importlib, sys

class Poison:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top == "modalbatch":
            second = (name.split(".") + [""])[1]
            if second in {below!r}:
                raise ImportError("below the container line: " + name)
        elif top not in sys.stdlib_module_names:
            raise ImportError("not in the standard library: " + name)

sys.meta_path.insert(0, Poison())
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, "->", error)
"""


def test_above_the_line_importing_needs_the_standard_library_alone() -> None:
    """In containers `click`, `jinja2`, `yaml`, … are not there, and what is there may be slow to import."""
    names = ["modalbatch", *(name for folder in ABOVE for _, name in parts(folder))]
    command = [sys.executable, "-c", POISON.format(below=BELOW), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")


def test_above_the_line_no_data_files_of_the_package_are_read() -> None:
    """`add_local_python_source` ships `.py` files only."""
    others = [str(path) for folder in ABOVE for path in ROOT.glob(f"{folder}/**/*") if path.is_file()]
    assert [path for path in others if not path.endswith((".py", ".pyc"))] == []
