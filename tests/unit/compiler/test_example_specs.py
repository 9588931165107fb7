"""The examples in `specs/`: each compiles, and is what its README says."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from modalbatch.compiler.emit import compile_app
from modalbatch.compiler.resolve import resolve
from modalbatch.spec import load_spec

SPECS = Path(__file__).resolve().parents[3] / "specs"
NAMES = sorted(path.name for path in SPECS.iterdir() if path.is_dir())


def records(name: str) -> list[dict]:
    return [json.loads(line) for path in sorted((SPECS / name / "data").glob("*.jsonl")) for line in path.open()]


def run(name: str, code: str) -> str:
    """Run code where the example's handler can be imported, as in a container."""
    env = {**os.environ, "PYTHONPATH": str(SPECS / name), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_job_of_its_folders_name(name: str) -> None:
    path = SPECS / name / f"{name}.yaml"
    job = resolve(load_spec(path))
    assert job.name == name
    assert f'app = modal.App("{name}")' in compile_app(job, path)
    assert 5 <= len(path.read_text().splitlines()) <= 40
    assert f"`{name}/`" in (SPECS / "README.md").read_text()
    assert (SPECS / name / "README.md").read_text().startswith(f"# {name}\n")


@pytest.mark.parametrize("name", ["class-batch", "flaky", "volume-sink"])
def test_made_data_is_what_its_script_makes(name: str, tmp_path: Path) -> None:
    shutil.copy(SPECS / name / "data" / "make.py", tmp_path)
    subprocess.run([sys.executable, str(tmp_path / "make.py")], check=True)
    for made in tmp_path.glob("*.jsonl"):
        assert made.read_bytes() == (SPECS / name / "data" / made.name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (SPECS / name / "data").iterdir()
    )


def test_wordcount_has_the_records_that_its_readme_counts() -> None:
    found = records("wordcount")
    assert len(found) == len({record["id"] for record in found}) == 7957
    assert all(list(record) == ["id", "book", "chapter", "verse", "text"] and record["text"] for record in found)
    assert len(Counter(record["book"] for record in found)) == 27


def test_wordcount_counts() -> None:
    code = (
        "import json, handlers; print(json.dumps(handlers.count({'id': 'John 11:35', 'text': 'Jesus, (jesus) wept.'})))"
    )
    assert json.loads(run("wordcount", code)) == {
        "id": "John 11:35", "words": 3, "distinct": 2, "top": "jesus", "times": 2,
    }  # fmt: skip


def test_class_batch_has_one_record_without_text() -> None:
    found = records("class-batch")
    assert [record["id"] for record in found if not record["text"]] == [77]
    code = (
        "from handlers import Classifier\n"
        "made = Classifier(['short', 'long'], 3)\n"
        "print([str(item) for item in made([{'text': 'a'}, {'text': ''}, {'text': 'abcd'}])])"
    )
    assert run("class-batch", code) == (
        "[\"{'label': 'short', 'length': 1}\", 'there is no text to classify', \"{'label': 'long', 'length': 4}\"]\n"
    )


def test_flaky_has_the_trouble_that_its_readme_lists() -> None:
    readme = (SPECS / "flaky" / "README.md").read_text()
    rows = [line.split("|") for line in readme.splitlines() if line.startswith("| `") and not line.startswith("| `do`")]
    listed = {row[1].strip(" `"): [int(number) for number in row[2].split(",")] for row in rows}
    found: dict[str, list[int]] = {}
    for record in records("flaky"):
        if "do" in record:
            found.setdefault(record["do"], []).append(record["id"])
    assert found == listed
    assert len(records("flaky")) == 300
