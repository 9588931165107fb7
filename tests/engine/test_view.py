"""Volumes as containers see them: what naive code that forgets to commit or reload meets, as on Modal."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest
from engine_bench import Bench, processes_of, run_folder

from modalbatch.engines.local import LocalEngine

_BEGIN = """
import shelf
with shelf.app.run():
    a, b = shelf.Shelf(name="a"), shelf.Shelf(name="b")
    def at(keeper, *steps):
        return keeper.do.remote(*steps)
    for keeper in (a, b):
        at(keeper, ["names", ""])  # the container is there: what it sees is settled
"""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An engine that commits nothing by itself, as with faults on request."""
    home = tmp_path_factory.mktemp("home")
    with LocalEngine(home, chaos="crash=0%,seed=1") as engine:
        yield Bench(home, engine)
    assert not (home / "volumes" / ".views").exists()


def _story(bench: Bench, body: str, code: int = 0) -> list[str]:
    """What a script says after the beginning above."""
    lines = [f"    {line}" for line in body.strip().splitlines()]
    output = bench.python(_BEGIN + "\n".join(lines), code)
    said = [line.removeprefix("SAYS ") for line in output.splitlines() if line.startswith("SAYS ")]
    assert said, output
    return said


def _volume(bench: Bench, name: str) -> Path:
    return bench.home / "volumes" / "main" / name


@pytest.mark.parametrize("volume", ["first", "second"])
def test_others_see_what_is_committed_once_they_reload(strict, volume):
    said = _story(
        strict,
        f"""
at(a, ["write", "{volume}/seen/x", "new"])
print("SAYS", at(a, ["read", "{volume}/seen/x"]), at(b, ["reload", "{volume}"], ["read", "{volume}/seen/x"]))
at(a, ["commit", "{volume}"])
print("SAYS", at(b, ["read", "{volume}/seen/x"]), at(b, ["reload", "{volume}"], ["read", "{volume}/seen/x"]))
print("SAYS", [entry.path for entry in shelf.VOLUMES["{volume}"].listdir("/seen")])
""",
    )
    assert said == ["new None", "None new", "['seen/x']"]
    assert (_volume(strict, volume) / "seen" / "x").read_text() == "new"


def test_the_last_to_commit_wins_file_by_file(strict):
    said = _story(
        strict,
        """
for keeper, text in ((a, "of a"), (b, "of b")):
    at(keeper, ["write", "first/race/both", text], ["write", "first/race/" + text, text])
at(b, ["commit", "first"])
at(a, ["commit", "first"])
for keeper in (a, b):
    print("SAYS", at(keeper, ["read", "first/race/both"]), at(keeper, ["names", "first/race"]))
    at(keeper, ["reload", "first"])
print("SAYS", at(a, ["read", "first/race/both"]), at(b, ["read", "first/race/both"]), at(a, ["names", "first/race"]))
""",
    )
    assert said == [
        "of a ['first/race/both', 'first/race/of a']",
        "of b ['first/race/both', 'first/race/of b']",
        "of a of a ['first/race/both', 'first/race/of a', 'first/race/of b']",
    ]


def test_a_commit_carries_what_was_changed_and_nothing_else(strict):
    said = _story(
        strict,
        """
at(a, ["write", "first/lot/kept", "1"], ["write", "first/lot/changed", "1"], ["write", "first/lot/old/gone", "1"],
   ["write", "first/lot/gone", "1"], ["commit", "first"])
at(b, ["reload", "first"], ["write", "first/lot/kept", "2"], ["write", "first/lot/old/fresh", "2"], ["commit", "first"])
at(a, ["append", "first/lot/changed", "+"], ["remove", "first/lot/gone"], ["remove", "first/lot/old/gone"],
   ["link", "first/lot/link", "kept"], ["write", "first/lot/brief", "1"], ["commit", "first"])
at(a, ["remove", "first/lot/brief"], ["commit", "first"])
print("SAYS", at(b, ["reload", "first"], ["names", "first/lot"]))
print("SAYS", *(at(b, ["read", "first/lot/" + name]) for name in ("kept", "changed", "link")))
""",
    )
    names = ["changed", "kept", "link", "old", "old/fresh"]
    assert said == [str([f"first/lot/{name}" for name in names]), "2 1+ 2"]


def test_a_reload_commits_and_is_refused_while_a_file_is_open(strict):
    """F60 V"""
    said = _story(
        strict,
        """
at(a, ["write", "first/open/x", "1"], ["commit", "first"])
print("SAYS", at(a, ["reload_with_open_file", "first/open/x"]))
at(a, ["write", "first/open/y", "by reloading"], ["reload", "first"])
print("SAYS", at(b, ["reload", "first"], ["read", "first/open/y"]))
""",
    )
    assert said[0].startswith("there are open files preventing the operation")
    assert said[1] == "by reloading"


def test_what_a_killed_container_has_not_committed_is_lost(strict):
    said = _story(
        strict,
        """
try:
    at(a, ["write", "first/lost/kept", "1"], ["commit", "first"], ["write", "first/lost/x", "1"], ["die"])
except Exception as error:
    print("SAYS", error)
print("SAYS", at(a, ["names", "first/lost"]))
""",
    )
    assert said == ["container exited with code 3 while it ran the input", "['first/lost/kept']"]


def test_a_container_that_leaves_commits(strict):
    _story(strict, 'at(a, ["write", "first/left/x", "bye"])\nprint("SAYS", "written")')
    left = _volume(strict, "first") / "left" / "x"
    while not left.exists():
        time.sleep(0.01)  # nobody waits for containers that leave
    assert left.read_text() == "bye"


def test_a_container_sees_what_was_uploaded_before_it_started(strict, tmp_path):
    (tmp_path / "x").write_text("from outside")
    strict.modal("volume", "put", "first", str(tmp_path / "x"), "up/x")
    (_volume(strict, "first") / "up" / "by-hand").write_text("by hand")
    said = _story(
        strict,
        """
print("SAYS", at(a, ["read", "first/up/x"]), "-", at(a, ["read", "first/up/by-hand"]))
shelf.first.remove_file("up/x")
print("SAYS", at(a, ["read", "first/up/x"]), "-", at(a, ["reload", "first"], ["read", "first/up/x"]))
""",
    )
    assert said == ["from outside - by hand", "from outside - None"]


def test_a_read_only_mount_reloads_and_cannot_be_written(strict):
    said = _story(
        strict,
        """
look = shelf.Looker()
print("SAYS", look.try_to_write.remote())
at(a, ["write", "first/ro/x", "1"], ["commit", "first"])
print("SAYS", look.do.remote("read", "first/ro/x"))
look.do.remote("reload", "first")
print("SAYS", look.do.remote("read", "first/ro/x"))
""",
    )
    assert said == ["Read-only file system", "None", "1"]


def test_only_a_container_that_mounts_a_volume_commits_it(strict):
    output = strict.python("import shelf; shelf.first.hydrate(); shelf.first.commit()", 1)
    assert "volume `first` is not mounted here: only containers that mount it commit and reload it" in output


def test_what_rests_is_committed_in_the_background(tmp_path, monkeypatch):
    monkeypatch.setenv("MODALBATCH_CLOCK", "socket")
    with LocalEngine(tmp_path) as engine:
        bench = Bench(tmp_path, engine)
        client = bench.start(
            sys.executable,
            "-c",
            _BEGIN
            + """
    at(a, ["write", "first/rest/x", "at rest"])
    print("WRITTEN", flush=True)
    print("SAYS", at(b, ["await_file", "first/rest/x"]))
""",
        )
        assert client.stdout is not None
        for line in client.stdout:
            if line.startswith("WRITTEN"):
                bench.advance(5.0)
                bench.advance(5.0)
            if line.startswith("SAYS"):
                assert line == "SAYS at rest\n"
                break
        else:
            raise AssertionError("it was never seen")
        client.communicate()


def test_what_is_written_while_the_volume_is_reloaded_is_kept(strict):
    said = _story(
        strict,
        """
n_written = at(a, ["write_beside_reloads", "first/beside", 20])
at(a, ["reload", "first"])
print("SAYS", n_written > 20, n_written == len(at(a, ["names", "first/beside"])))
print("SAYS", n_written == len(shelf.first.listdir("/beside")))
""",
    )
    assert said == ["True True", "True"]


def test_files_that_vanish_do_not_disturb_a_commit(strict):
    said = _story(strict, 'at(a, ["churn", "first/churn", 30])\nprint("SAYS", "committed")')
    assert said == ["committed"]


def test_a_file_that_is_rewritten_with_its_old_time_is_committed(strict):
    said = _story(
        strict,
        """
at(a, ["write", "first/stamp", "AAAA"], ["stamp", "first/stamp", "BBBB"], ["commit", "first"])
at(a, ["stamp", "first/stamp", "CCCC"], ["commit", "first"])
print("SAYS", b"".join(shelf.first.read_file("stamp")).decode())
""",
    )
    assert said == ["CCCC"]


_NESTED = """
import modal
app = modal.App("nested")
outer, inner = (modal.Volume.from_name(name, create_if_missing=True) for name in ("outer", "inner"))

@app.function(volumes={"/nest": outer, "/nest/sub": inner}, serialized=True)
def f():
    return 1

with app.run():
    f.remote()
"""
_ESCAPE = """
import modal
app = modal.App("escape")
volume = modal.Volume.from_name("escape", create_if_missing=True)

@app.function(volumes={"/v": volume.with_mount_options(sub_path="/../../../")}, serialized=True)
def f():
    import os
    return os.listdir("/v")

with app.run():
    print("FOUND", f.remote())
"""


def test_a_mount_within_a_volume_is_refused(strict):
    output = strict.python(_NESTED, 1)
    assert "`/nest/sub` lies within the volume at `/nest`: the local engine mounts nothing there" in output


@pytest.mark.skipif(not hasattr(modal.Volume, "with_mount_options"), reason="new in modal 1.5")
def test_a_sub_path_cannot_leave_the_volume(strict):
    output = strict.python(_ESCAPE, None)
    assert "engine.json" not in output
    assert "FOUND []" in output or "is outside the volume" in output


_AHEAD = """
import io, modal
app = modal.App("ahead")
volume = modal.Volume.from_name("ahead", create_if_missing=True)

@app.function(volumes={"/ahead": volume}, serialized=True)
def look():
    return open("/ahead/x").read()

with app.run():
    print("READY", flush=True)
    input()
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"in time"), "/x")
    print("SAYS", look.remote())
"""


def test_a_container_that_was_started_ahead_sees_what_was_uploaded_before_its_call(strict):
    client = subprocess.Popen(
        [sys.executable, "-c", _AHEAD], env=strict.environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "READY\n"
    while sum("ahead" in path.read_text() for path in run_folder(strict.home).glob("*.spec")) < 1:
        time.sleep(0.01)  # a container is about to start
    while len(processes_of(strict.home)) < 5:  # engine, fork server, and the three of a container
        time.sleep(0.01)
    output, _ = client.communicate("\n")
    assert "SAYS in time" in output
