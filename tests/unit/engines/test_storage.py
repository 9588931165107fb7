"""Files of volumes: what a commit carries over, what a snapshot shows, and what never leaves the volume."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from grpclib import GRPCError

from modalbatch.engines.local.storage.layer import Layer
from modalbatch.engines.local.storage.snapshot import Snapshots
from modalbatch.engines.local.storage.view import Views
from modalbatch.engines.local.storage.volume import copy_files, existing, inside, mounted_folder, write_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "volume"
    made.mkdir()
    return made


def _layer(tmp_path: Path, folder: Path) -> tuple[Layer, Path]:
    """A layer over the folder as it is now, and where a container would write."""
    snapshot = Snapshots(tmp_path / "snapshots").take(folder)
    layer = Layer(tmp_path / "layer", snapshot.path)
    (tmp_path / "drafts").mkdir()
    return layer, tmp_path / "layer" / "upper"


def test_holes_stay_holes(tmp_path, folder):
    layer, upper = _layer(tmp_path, folder)
    with (upper / "big").open("wb") as file:
        file.seek(1 << 30)
        file.write(b"middle")
        file.truncate(3 << 30)
    layer.commit(folder, tmp_path / "drafts")
    status = (folder / "big").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (3 << 30, True)
    with (folder / "big").open("rb") as file:
        file.seek((1 << 30) - 1)
        assert file.read(8) == b"\0middle\0"


def test_a_file_that_grows_waits_until_it_rests(tmp_path, folder):
    layer, upper = _layer(tmp_path, folder)
    (upper / "log").write_text("a")
    layer.commit(folder, tmp_path / "drafts", all_files=False)
    (upper / "log").write_text("ab")
    layer.commit(folder, tmp_path / "drafts", all_files=False)
    assert not (folder / "log").exists()
    layer.commit(folder, tmp_path / "drafts", all_files=False)
    assert (folder / "log").read_text() == "ab"


def test_a_file_that_was_committed_and_removed_is_removed_but_not_behind_a_link(tmp_path, folder):
    layer, upper = _layer(tmp_path, folder)
    (upper / "d").mkdir()
    (upper / "d" / "f").write_text("mine")
    layer.commit(folder, tmp_path / "drafts")
    elsewhere = tmp_path / "elsewhere"
    (folder / "d").rename(elsewhere)
    (folder / "d").symlink_to(elsewhere)  # as another container may have committed it
    (upper / "d" / "f").unlink()
    layer.commit(folder, tmp_path / "drafts")
    assert (elsewhere / "f").read_text() == "mine"


def test_a_snapshot_shows_folders_that_may_not_be_written(tmp_path, folder):
    (folder / "cache").mkdir()
    (folder / "cache" / "x").write_text("x")
    (folder / "cache").chmod(0o555)
    snapshots = Snapshots(tmp_path / "snapshots")
    taken = snapshots.take(folder)
    assert (taken.path / "cache" / "x").read_text() == "x"
    assert (taken.path / "cache").stat().st_mode & 0o777 == 0o555
    assert snapshots.take(folder) is taken
    snapshots.drop(taken)
    snapshots.drop(taken)
    snapshots.forget_unused()
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_no_path_leaves_the_volume_not_even_by_a_link(tmp_path, folder):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("theirs")
    (folder / "out").symlink_to(tmp_path / "outside")
    (folder / "file").symlink_to(tmp_path / "outside" / "x")
    for refuse in (
        lambda: inside(folder, "../outside/x"),
        lambda: inside(folder, "out/new"),
        lambda: existing(folder, "out/x"),
        lambda: existing(folder, "file"),
        lambda: mounted_folder(folder, "/../../"),
        lambda: mounted_folder(folder, "out"),
        lambda: copy_files(folder, ["out"], "copy", recursive=True),
    ):
        with pytest.raises(GRPCError, match=r"outside the volume|no folder of the volume"):
            refuse()
    assert mounted_folder(folder, "a/b") == folder / "a" / "b"


def test_a_write_that_fails_leaves_nothing(tmp_path, folder):
    with pytest.raises(FileNotFoundError):
        write_file(folder, "x", [tmp_path / "vanished"], size=1, mode=0)
    assert os.listdir(folder) == []


def test_what_killed_engines_have_left_of_views_goes_and_is_in_nobodys_way(tmp_path):
    for name in (".views", ".views-old-1"):
        (tmp_path / name / "layers" / "1").mkdir(parents=True)
    Views(tmp_path / ".views", lambda _: tmp_path, None)
    while list(tmp_path.iterdir()):
        time.sleep(0.01)
