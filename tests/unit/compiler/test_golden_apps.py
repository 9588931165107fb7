"""Jobs and the apps that they become, whole. Rewrite with `--bless`, and read the difference."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modalbatch.compiler.emit import emit
from modalbatch.job import Job

APPS = Path(__file__).resolve().parents[2] / "golden" / "apps"
CASES = sorted(path.name for path in APPS.iterdir())


def load_job(case: str) -> Job:
    return Job.from_json(json.loads((APPS / case / "job.json").read_text()))


@pytest.mark.parametrize("case", CASES)
def test_the_app_is_the_golden_one(case: str, bless: bool) -> None:
    found = emit(
        load_job(case), spec_name=f"{case}.yaml", spec_dir=f"../../../specs/{case}", fingerprint="1f2e3d4c5b6a"
    )
    if bless:
        (APPS / case / "app.py").write_text(found)
    assert found == (APPS / case / "app.py").read_text()


def test_a_plain_job_is_about_sixty_lines() -> None:
    assert len((APPS / "plain" / "app.py").read_text().splitlines()) <= 66


def test_apps_are_linted_and_formatted_as_they_are() -> None:
    apps = [str(APPS / case / "app.py") for case in CASES]
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--select", "E4,E7,E9,F,I"], ["format", "--check", "--line-length", "120"]):
        command = [*ruff, command[0], "--isolated", *command[1:], *apps]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
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
    """Neither the spec's folder nor the handler is there, as in a container: nothing is read before it is needed."""
    (tmp_path / "images.py").write_text("def add_flash_attn(image):\n    return image.env({'FLASH': '1'})\n")
    apps = [str(APPS / case / "app.py") for case in CASES]
    env = {**os.environ, "MODAL_CONFIG_PATH": os.devnull, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, *apps], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    for case, line in zip(CASES, done.stdout.splitlines(), strict=True):
        name, spec_dir, data = json.loads(line)
        job = load_job(case)
        assert (name, Job.from_json(data)) == (job.name, job)
        assert spec_dir == str((APPS / case / f"../../../specs/{case}").resolve())
