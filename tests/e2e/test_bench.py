"""The measurements measure: memory as it is promised; the others with numbers that only show that they run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
MB = 1_000_000


def measure(name: str, folder: Path, *words: str) -> dict:
    """The numbers of one script; whether it keeps its limits depends on the machine, that it runs does not."""
    command = [sys.executable, str(BENCH / f"{name}.py"), "--json", str(folder / "numbers.json"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (folder / "numbers.json").exists(), done.stdout + done.stderr
    return json.loads((folder / "numbers.json").read_text())


def test_no_process_grows_with_the_input(tmp_path: Path) -> None:
    """200 MB in, 270 MB out, and nobody needs half of that."""
    found = measure("memory", tmp_path, "--records", "1000000")
    assert len(found["processes"]) > 4
    assert [item for item in found["processes"] if item[0] > 100 * MB] == []


@pytest.mark.parametrize(
    ("name", "words", "n_gates"), [("w1", ["--records", "3000", "--rounds", "1"], 2), ("startup", ["--rounds", "1"], 2)]
)
def test_the_others_run(name: str, words: list[str], n_gates: int, tmp_path: Path) -> None:
    assert len(measure(name, tmp_path, *words)["gates"]) == n_gates
