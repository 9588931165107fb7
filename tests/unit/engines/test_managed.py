"""Pythons that uv installs: the real uv, and an archive of the Python that runs the tests."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from modalbatch.engines.local.images.interpreter import PYTHONS
from modalbatch.engines.local.images.managed import ManagedPythons

UV = str(Path(sys.executable).with_name("uv"))
OWN = sys.version_info
_NOT_NEEDED = {"test", "site-packages", "dist-packages", "__pycache__", "idlelib", "tkinter", "ensurepip", "pydoc_data"}


def _needed(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(info.name).parts
    return None if _NOT_NEEDED & set(parts) or any(part.startswith("config-") for part in parts) else info


@pytest.fixture
def offer(tmp_path: Path) -> dict[str, str]:
    """Variables that make uv take the offered archive for its list of Pythons."""
    name = f"python3.{OWN.minor}"
    archive = tmp_path / "python.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add((Path(sys.base_prefix) / "bin" / name).resolve(), f"python/bin/{name}")
        for link in ("python", "python3"):
            info = tarfile.TarInfo(f"python/bin/{link}")
            info.type, info.linkname = tarfile.SYMTYPE, name
            tar.addfile(info)
        tar.add(Path(os.__file__).parent, f"python/lib/{name}", filter=_needed)
    machine = platform.machine()
    facts = {
        "name": "cpython",
        "arch": {"family": machine, "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": 3,
        "minor": OWN.minor,
        "patch": OWN.micro,
        "prerelease": "",
        "url": archive.as_uri(),
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "variant": None,
        "build": "20260101",
    }
    path = tmp_path / "pythons.json"
    path.write_text(json.dumps({f"cpython-3.{OWN.minor}.{OWN.micro}-linux-{machine}-gnu": facts}))
    return {**os.environ, "UV_PYTHON_DOWNLOADS_JSON_URL": str(path)}


def test_uv_brings_a_python_into_the_cache(tmp_path, offer):
    assert ManagedPythons(tmp_path / PYTHONS, UV, offer).install(OWN.minor)
    (python,) = (tmp_path / PYTHONS).glob(f"cpython-3.{OWN.minor}.*/bin/python3.{OWN.minor}")
    said = subprocess.run(
        [python, "-I", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert Path(said.stdout.strip()) == python.parent.parent


def test_an_attempt_that_failed_is_not_repeated_for_an_hour(tmp_path):
    environ = {**os.environ, "UV_PYTHON_INSTALL_MIRROR": "file:///nowhere"}
    pythons = ManagedPythons(tmp_path / PYTHONS, UV, environ)
    assert not pythons.install(12)
    failure = tmp_path / PYTHONS / "3.12.failed"
    assert b"nowhere" in failure.read_bytes()
    failure.write_text("an hour is not over")
    assert not pythons.install(12)
    assert failure.read_text() == "an hour is not over"
    then = time.time() - 3601
    os.utime(failure, (then, then))
    assert not pythons.install(12)
    assert b"nowhere" in failure.read_bytes()


def test_who_forbids_downloads_gets_none(tmp_path, offer):
    assert not ManagedPythons(tmp_path / PYTHONS, UV, {**offer, "UV_PYTHON_DOWNLOADS": "never"}).install(OWN.minor)
    assert not (tmp_path / PYTHONS).exists()
