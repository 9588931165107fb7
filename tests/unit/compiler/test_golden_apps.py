"""Specs and the apps that they become, whole. Rewrite with `--bless`, and read the difference."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modalbatch.compiler.emit import compile_app
from modalbatch.compiler.resolve import resolve
from modalbatch.job import Job
from modalbatch.spec import load_spec

APPS = Path(__file__).resolve().parents[2] / "golden" / "apps"
CASES = sorted(path.name for path in APPS.iterdir())


def spec_path(case: str) -> Path:
    return APPS / case / f"{case}.yaml"


@pytest.mark.parametrize("case", CASES)
def test_the_app_is_the_golden_one(case: str, bless: bool) -> None:
    path = APPS / case / "app.py"
    found = compile_app(resolve(load_spec(spec_path(case))), spec_path(case), path)
    if bless:
        path.write_text(found)
    assert found == path.read_text()


def test_a_plain_job_is_about_sixty_lines() -> None:
    assert len((APPS / "plain" / "app.py").read_text().splitlines()) <= 66


@pytest.mark.parametrize("command", ["check --select E4,E7,E9,F,I", "format --check --line-length 120"])
def test_apps_pass_ruff_as_they_are(command: str) -> None:
    apps = [str(APPS / case / "app.py") for case in CASES]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command.split(), "--isolated", *apps],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


IMPORT = """
import importlib.util, json, sys
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("mb_app", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(json.dumps([module.app.name, str(module.SPEC_DIR), module.JOB]))
"""


def test_apps_import_under_the_real_modal_from_any_folder(tmp_path: Path) -> None:
    """Only the app is there, as in a container: no file beside the spec is read before it is needed."""
    (tmp_path / "images.py").write_text("def add_flash_attn(image):\n    return image.env({'FLASH': '1'})\n")
    for case in CASES:
        (tmp_path / case).mkdir()
        shutil.copy(APPS / case / "app.py", tmp_path / case)
    apps = [str(tmp_path / case / "app.py") for case in CASES]
    env = {**os.environ, "MODAL_CONFIG_PATH": os.devnull, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, *apps], cwd="/", env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    for case, line in zip(CASES, done.stdout.splitlines(), strict=True):
        name, folder, data = json.loads(line)
        job = resolve(load_spec(spec_path(case)))
        assert (name, Job.from_json(data), folder) == (job.name, job, str(tmp_path.resolve() / case))
