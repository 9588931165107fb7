"""A Volume through Modal's API passes the suite, with the real client against a local engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from modalbatch.engines.local import LocalEngine

_CASES = Path(__file__).with_name("volume_api_cases.py")


def test_the_suite(tmp_path: Path) -> None:
    with LocalEngine(tmp_path / "home") as engine:
        environ = os.environ | {"ENGINE_ENVIRON": json.dumps(engine.environ())}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(_CASES)],
            env=environ,
            cwd=_CASES.parents[3],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout
