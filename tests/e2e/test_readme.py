"""The README is true: its commands work in a fresh checkout, its files are those of `init`, its links lead on."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import uv

from modalbatch.compiler.resolve import resolve
from modalbatch.spec import load_spec

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted(path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.parts[1:]))


def blocks(kind: str, text: str = README) -> list[str]:
    """The fenced blocks of one kind, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this checkout and nothing that was made in it, as after a clone."""
    folder = tmp_path_factory.mktemp("clone") / "modalbatch"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def environ(checkout: Path) -> dict[str, str]:
    """A user who has nothing: an empty home, no account, and an empty virtual environment for `pip install`."""
    tool = uv.find_uv_bin()
    caches = {"UV_CACHE_DIR": str(ROOT / ".tools" / "uv-cache")} | dict(os.environ)
    user = checkout.parent / "user"
    python = user / "bin" / "python"
    subprocess.run([tool, "venv", "--quiet", "--seed", "--python", sys.executable, user], env=caches, check=True)
    # What was locked, so that a release of somebody else's package today changes nothing here.
    lock = checkout.parent / "lock.txt"
    export = [tool, "export", "--quiet", "--frozen", "--no-hashes", "--no-emit-project", "-o", lock]
    subprocess.run(export, cwd=checkout, env=caches, check=True, capture_output=True)
    (checkout.parent / "home").mkdir()
    kept = {name: value for name, value in caches.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "CI")}
    return kept | {
        "HOME": str(checkout.parent / "home"),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PIP_CONSTRAINT": str(lock),
        "ARGS": "tests/unit/spec/test_scalar.py",  # `make test` in this test is a part of the suite: this is the suite
    }


def settled(text: str) -> list[str]:
    """Lines without what differs from one run to the next."""
    text = re.sub(r"[\d.]+ s\b", "N s", text)
    text = re.sub(r"[\d,.]+ records/s", "N records/s", text)
    return re.sub(r"\d+ containers?", "N containers", text).splitlines()


def test_every_command_works_in_a_fresh_checkout(checkout: Path, environ: dict[str, str]) -> None:
    said = {}
    for line in "".join(blocks("sh")).splitlines():
        command = line.partition(" #")[0].strip()
        if command == "make check":
            command += " --dry-run"  # `.ci/run` runs it, on the tree that the tests run on
        done = subprocess.run(
            ["bash", "-c", command], cwd=checkout, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said[command] = done.stdout + done.stderr
        if command == "make demo":
            # pip asks `rustc` for its version, and a rustc of rustup makes a folder of its own.
            assert [path.name for path in Path(environ["HOME"]).iterdir() if path.name != ".rustup"] == []
    assert "make demo" in said
    shown = settled(blocks("text")[0])
    assert [line for line in settled(said["make demo"]) if line in shown] == shown
    again = subprocess.run(["make", "demo"], cwd=checkout, env=environ, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "nothing to do: manifest 1 says all of it\n" in again.stderr


def test_the_first_files_are_those_of_init(tmp_path: Path) -> None:
    subprocess.run([Path(sys.executable).with_name("modalbatch"), "init", "wordcount"], cwd=tmp_path, check=True)
    spec = (tmp_path / "wordcount" / "job.yaml").read_text().splitlines(keepends=True)
    assert blocks("yaml")[0] == "".join(spec[1:])
    assert blocks("python")[0] in (tmp_path / "wordcount" / "handlers.py").read_text()


def test_the_second_spec_is_right(tmp_path: Path) -> None:
    shutil.copy(ROOT / "specs" / "class-batch" / "handlers.py", tmp_path)
    (tmp_path / "job.yaml").write_text("version: 1\nname: x\n" + blocks("yaml")[1])
    job = resolve(load_spec(tmp_path / "job.yaml"))
    assert (job.handler.call, job.compute.gpu) == ("handlers:Classifier", ("L40S", "A100"))


def test_every_promise_names_tests_that_exist() -> None:
    promises = README.partition("## Promises")[2].partition("\n## ")[0]
    lines = re.findall(r"^\d+\. .*(?:\n   .*)*", promises, re.MULTILINE)
    assert len(lines) == 11
    for line in lines:
        named = re.findall(r"\[`(\w+)`\]\((tests/[\w/]+\.py)\)", line)
        assert named, line
        for test, path in named:
            tree = ast.walk(ast.parse((ROOT / path).read_text()))
            functions = {item.name for item in tree if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))}
            assert test in functions, f"{path}::{test}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_errors_read_as_the_page_shows(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    (tmp_path / "handlers.py").write_text("def count(record):\n    return record\n")
    spec = "version: 1\nname: wordcount\nhandler: handlers:count\nsorce: data/*.jsonl\nsink: out/\n"
    (tmp_path / "job.yaml").write_text(spec)
    command = [Path(sys.executable).with_name("modalbatch"), "validate", "job.yaml"]
    plain = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stderr) == (2, blocks("", page)[0])
    data = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (data.returncode, json.loads(data.stdout)) == (2, json.loads(blocks("json", page)[0]))
