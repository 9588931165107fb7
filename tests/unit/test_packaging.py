"""What is shipped: the wheel, what it drags in, and what no tracked file may hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import uv

import modalbatch
from modalbatch.spec.schema import NAME, schema_text

ROOT = Path(__file__).resolve().parents[2]
#: What the plain package must never pull in: they are extras, or nobody's.
HEAVY = {"boto3", "botocore", "pyarrow", "pandas", "numpy", "azure-core", "google-cloud-storage", "s3fs", "ray"}


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


TRACKED = [name for name in git("ls-files", "-z").split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [uv.find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_code_schemas_and_the_marker_of_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name.removeprefix("runner/") for name in TRACKED if name.startswith("runner/modalbatch/")}
    schemas = {f"modalbatch/{name}" for name in TRACKED if name.startswith("schemas/")}
    assert package <= names
    assert schemas <= names
    assert "modalbatch/py.typed" in names
    top = {name.split("/")[0] for name in names}
    assert top == {"modalbatch", f"modalbatch-{modalbatch.__version__}.dist-info"}


def test_an_installed_wheel_knows_its_schema(wheel: Path, tmp_path: Path) -> None:
    """Unpacked somewhere, with nothing of the checkout beside it."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    source = "import modalbatch; from modalbatch.cli import main; print(modalbatch.__file__); main(['schema'])"
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    place, _, text = done.stdout.partition("\n")
    assert place == str(tmp_path / "modalbatch" / "__init__.py")
    assert text == schema_text()


def test_this_checkout_knows_its_schema() -> None:
    assert schema_text() == (ROOT / "schemas" / NAME).read_text()


def test_the_plain_package_is_light() -> None:
    """Everything that `pip install modalbatch` brings, from what is installed here."""
    todo, seen = ["modalbatch"], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another Python or system
        todo += [re.split(r"[^\w.-]", item)[0].lower().replace("_", "-") for item in required if "extra ==" not in item]
    assert seen & HEAVY == set()
    assert len(seen) < 80


def test_the_version_is_a_literal() -> None:
    text = (ROOT / "runner" / "modalbatch" / "__init__.py").read_text()
    assert f'\n__version__ = "{modalbatch.__version__}"\n' in text
    assert metadata.version("modalbatch") == modalbatch.__version__
    assert f"\n## {modalbatch.__version__} " in (ROOT / "CHANGELOG.md").read_text()


#: Patterns with a bracket in them, so that this file is not found itself.
FORBIDDEN = {
    "a machine's path": r"/(?:home|Users)/[a-z]\w*/|/root/[.]|/work/(?:main|shared)|/opt/wheel[s]",
    "a host of a registry": r"pypi[.]org|pythonhosted[.]org|registry[.]npmjs|(?:deb|security)[.]debian[.]org",
    "a secret": r"AKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE [K]EY-----|\bgh[pousr]_\w{36}",
    "an unfinished thought": r"\b(?:TOD[O]|FIXM[E]|XX[X])\b",
    "its tools": r"(?i)\b(?:claud[e]|anthropi[c]|chatgp[t]|copilo[t]|sub-?agen[t])\b",
}
#: Tests show what becomes of secrets, with made-up ones.
MADE_UP = ("tests/",)


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = []
    for name in TRACKED:
        if name == "uv.lock" or (what == "a secret" and name.startswith(MADE_UP)):
            continue  # the lock names where each package came from
        text = (ROOT / name).read_text(errors="replace")
        found += [f"{name}: {match[0]}" for match in re.finditer(FORBIDDEN[what], text)]
    assert found == []


def test_the_readme_is_short() -> None:
    for name in ("README.md", "runner/README.md"):
        assert len((ROOT / name).read_text().splitlines()) <= 150, name


def test_every_folder_has_its_sign() -> None:
    folders = {name.split("/")[0] for name in TRACKED if "/" in name and not name.startswith(".")}
    assert folders == {"bench", "docs", "runner", "schemas", "specs", "tests"}
    assert [folder for folder in sorted(folders) if f"{folder}/README.md" not in TRACKED] == []
