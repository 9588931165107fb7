"""Commits of volumes against the truth of a plain folder, over real overlays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_STORIES = 150


def test_what_two_containers_commit_is_what_they_did(tmp_path):
    script = Path(__file__).with_name("layer_stories.py")
    done = subprocess.run(
        [sys.executable, script, str(_STORIES), tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stdout + done.stderr
