"""With the rights of an ordinary user, and where the kernel gives no namespaces at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from engine_bench import APPS, await_none

_STORY = """
import shelf
with shelf.app.run():
    a, b = shelf.Shelf(name="a"), shelf.Shelf(name="b")
    b.do.remote(["names", "first"])
    a.do.remote(["write", "first/x", "1"])
    a.do.remote(["commit", "first"])
    print("SEEN", b.do.remote(["read", "first/x"]), b.do.remote(["reload", "first"], ["read", "first/x"]))
    print("OPEN", a.do.remote(["reload_with_open_file", "first/x"]))
    print("SPACES", *a.namespaces.remote())
"""
_PLAIN = """
import shelf, os
with shelf.app.run():
    a = shelf.Shelf(name="a")
    print("AT", os.path.isdir(a.where.remote()))
    print("SPACES", *a.namespaces.remote())
"""


def _run(rights: str, home: Path, source: str) -> str:
    """What a client's script prints under `modalbatch local` with fewer rights."""
    reduced = [sys.executable, str(Path(__file__).with_name("reduced.py")), rights]
    words = [*reduced, sys.executable, "-m", "modalbatch", "local", "--", sys.executable, "-c", source]
    environ = os.environ | {"MODALBATCH_HOME": str(home), "MODALBATCH_CHAOS": "crash=0%,seed=1"}
    done = subprocess.run(
        words, env=environ, cwd=APPS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    await_none(home)
    assert done.returncode == 0, done.stdout
    return done.stdout


def _spaces() -> list[str]:
    return [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "pid")]


def test_an_ordinary_user_has_namespaces_and_volumes_as_on_modal(home):
    output = _run("user", home, _STORY)
    assert "SEEN None 1\n" in output
    assert "OPEN there are open files preventing the operation" in output
    found = output.split("SPACES ")[1].split()[:2]
    assert not set(found) & set(_spaces())
    assert "containers have no namespaces" not in output


def test_without_namespaces_the_log_says_what_differs(home):
    output = _run("none", home, _PLAIN)
    assert "AT True\n" in output
    assert output.split("SPACES ")[1].split()[1] == _spaces()[1]
    assert "containers have no namespaces of their own here" in output
