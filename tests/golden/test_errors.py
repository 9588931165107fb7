"""Wrong specs and exactly what is said about them; `--bless` rewrites `stderr`."""

import shutil
from pathlib import Path

import pytest

from modalbatch.cli import main

ERRORS = Path(__file__).parent / "errors"
CASES = sorted(path.name for path in ERRORS.iterdir() if not path.name.startswith("_"))


def test_there_are_enough_cases():
    assert len(CASES) >= 110


@pytest.mark.parametrize("case", CASES)
def test_the_message_is_exact(case, tmp_path, monkeypatch, capsys, bless):
    shutil.copytree(ERRORS / "_shared", tmp_path, dirs_exist_ok=True)
    shutil.copytree(ERRORS / case, tmp_path, dirs_exist_ok=True)
    (tmp_path / "stderr").unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path)
    code = main(["validate", "spec.yaml"])
    said = capsys.readouterr()
    if bless:
        (ERRORS / case / "stderr").write_text(said.err)
    assert (code, said.out) == (2, "")
    assert said.err == (ERRORS / case / "stderr").read_text()
