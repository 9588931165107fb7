"""Pythons that uv installs for images. Runs on: laptop.

Owns the folder `pythons` of the cache, shared by every home of a user. A machine without a network loses no time over
it: an attempt that failed is not repeated for an hour.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from modalbatch.engines.local.containers.guest_isolation import die_with_parent
from modalbatch.engines.local.images.environment import build_environ

_RETRY_AFTER_S = 3600.0
#: A connection or a pause within a download that takes longer counts as no network.
_NETWORK_LIMIT_S = 15


class ManagedPythons:
    """Python 3 by minor version, as uv brings it."""

    def __init__(self, folder: Path, uv_path: str, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._uv_path = uv_path
        self._is_forbidden = environ.get("UV_PYTHON_DOWNLOADS") in ("never", "manual")
        self._environ = {
            "UV_HTTP_TIMEOUT": str(_NETWORK_LIMIT_S),
            "UV_HTTP_RETRIES": "0",
            **build_environ(environ),
            "UV_PYTHON_DOWNLOADS": "automatic",
            "UV_PYTHON_INSTALL_DIR": str(folder),
        }

    def install(self, minor: int) -> bool:
        """Installs Python 3.`minor` unless that has failed a while ago; whether it did. Blocks while it downloads."""
        failure = self._folder / f"3.{minor}.failed"
        if self._is_forbidden or (failure.exists() and time.time() - failure.stat().st_mtime < _RETRY_AFTER_S):
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [self._uv_path, "python", "install", "--no-config", "--no-bin", f"3.{minor}"],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            preexec_fn=die_with_parent,
        )
        if done.returncode != 0:
            failure.write_bytes(done.stdout)
        return done.returncode == 0
