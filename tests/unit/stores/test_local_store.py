"""Local folders: what a disk can do wrong."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from modalbatch.errors import InputChangedError, InternalError, NotFoundError, StateError, UnavailableError
from modalbatch.stores.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(f"{tmp_path}/root/")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def full_disk():
    """A file system of one page, mounted where it can be."""
    path = Path("/tmp") / f"full-{os.getpid()}"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", path], capture_output=True, check=False)
    yield path if mounted.returncode == 0 else None
    if mounted.returncode == 0:
        subprocess.run(["umount", path], check=True)
    path.rmdir()


def test_a_relative_path_is_a_bug() -> None:
    with pytest.raises(InternalError, match="a local store needs an absolute path, found `out/`"):
        LocalStore("out/")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a\0b"])
def test_names_stay_below_the_root(store: LocalStore, name: str) -> None:
    with pytest.raises(InternalError, match="is no name in"):
        store.read(name)


class TestList:
    def test_regular_files_only(self, store: LocalStore, root: Path, tmp_path: Path) -> None:
        (root / "file").write_bytes(b"1")
        (root / "folder").mkdir()
        (root / "folder/inner").write_bytes(b"22")
        os.mkfifo(root / "pipe")
        (root / "link").symlink_to("file")
        (root / "broken").symlink_to("nowhere")
        (root / "self").symlink_to("self")
        (root / "device").symlink_to("/dev/zero")
        (root / "loop").symlink_to(root, target_is_directory=True)
        (root / "folder/up").symlink_to(root, target_is_directory=True)
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/far").write_bytes(b"333")
        (root / "linked").symlink_to(tmp_path / "outside", target_is_directory=True)
        found = [(entry.name, entry.size_bytes) for entry in store.list()]
        assert found == [("file", 1), ("folder/inner", 2), ("link", 1), ("linked/far", 3)]

    def test_a_pipe_is_never_opened(self, store: LocalStore, root: Path) -> None:
        os.mkfifo(root / "pipe")
        assert store.stat("pipe") is None
        with pytest.raises(NotFoundError, match="pipe` is not a regular file"):
            store.open("pipe")
        with pytest.raises(NotFoundError, match="root` is not a regular file"):
            LocalStore(str(root.parent)).open("root")

    def test_unfinished_writes_are_not_shown(self, store: LocalStore) -> None:
        (store.spool_dir() / "half").write_bytes(b"x")
        store.create("_modalbatch/receipts/1.json", b"{}")
        assert [entry.name for entry in store.list()] == ["_modalbatch/receipts/1.json"]
        assert [entry.name for entry in store.list("_modalbatch/")] == ["_modalbatch/receipts/1.json"]

    def test_is_lazy(self, store: LocalStore, root: Path) -> None:
        for folder in ("a", "b"):
            (root / folder).mkdir()
            (root / folder / "1").write_bytes(b"")
        listing = store.list()
        assert next(listing).name == "a/1"
        (root / "b/2").write_bytes(b"")
        assert [entry.name for entry in listing] == ["b/1", "b/2"]

    def test_folders_nobody_wants_are_not_entered(self, store: LocalStore, root: Path) -> None:
        (root / "want").mkdir()
        (root / "want/1").write_bytes(b"")
        (root / ".venv").mkdir()
        (root / ".venv/1").write_bytes(b"")
        asked: list[str] = []
        found = [entry.name for entry in store.list(descend=lambda name: asked.append(name) or name == "want/")]
        assert found == ["want/1"]
        assert asked == [".venv/", "want/"]

    def test_names_that_are_not_text(self, store: LocalStore, root: Path) -> None:
        with open(os.fsencode(root) + b"/caf\xe9", "wb") as file:
            file.write(b"x")
        (name,) = [entry.name for entry in store.list()]
        assert os.fsencode(name) == b"caf\xe9"
        assert store.read(name) == b"x"


class TestOpen:
    def test_a_file_that_grows_while_it_is_read(self, store: LocalStore, root: Path) -> None:
        (root / "log").write_bytes(b"x" * 100_000)
        entry = store.stat("log")
        assert entry
        stream = store.open("log", pin=entry.pin)
        assert len(stream.read(10)) == 10
        with (root / "log").open("ab") as file:
            file.write(b"more")
        with pytest.raises(InputChangedError, match="log` changed after it was listed"):
            stream.read()
        with pytest.raises(InputChangedError):
            stream.close()
        assert stream.closed

    def test_a_file_replaced_by_a_rename_keeps_its_reader(self, store: LocalStore, root: Path) -> None:
        (root / "x").write_bytes(b"old")
        entry = store.stat("x")
        assert entry
        with store.open("x", pin=entry.pin) as stream:
            store.replace("x", b"new")
            assert stream.read() == b"old"


class TestWrite:
    def test_a_full_disk_leaves_nothing(self, full_disk: Path | None) -> None:
        if full_disk is None:
            # Where nothing can be mounted, a limit on the size of files gives the same short write.
            return
        store = LocalStore(str(full_disk))
        store.create("_modalbatch/small", b"x")
        with pytest.raises(
            UnavailableError, match=r"disk full: cannot write `.*` \(No space left on device\)"
        ) as caught:
            store.create("big", b"x" * 100_000)
        assert caught.value.hint == "free some space, then run `apply` again"
        assert [entry.name for entry in store.list()] == ["_modalbatch/small"]
        assert list(store.spool_dir().iterdir()) == []

    def test_a_limit_on_file_size_leaves_nothing(self, tmp_path: Path) -> None:
        script = (
            "import sys; from modalbatch.stores.local import LocalStore\n"
            "from modalbatch.errors import UnavailableError\n"
            "store = LocalStore(sys.argv[1])\n"
            "try: store.create('big', b'x' * 100_000)\n"
            "except UnavailableError as error: print(error.message.split(':')[0], list(store.list()))\n"
        )
        found = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "root")],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
            capture_output=True,
            check=False,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert (found.stdout, found.stderr) == ("disk full []\n", "")
        assert list((tmp_path / "root/_modalbatch/tmp").iterdir()) == []

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "root").write_bytes(b"")
        with pytest.raises(UnavailableError, match=r"cannot write `.*`: (Not a directory|File exists)"):
            LocalStore(str(tmp_path / "root")).create("x", b"")

    def test_another_file_system_is_copied_from(self, store: LocalStore) -> None:
        path = Path("/dev/shm") / f"modalbatch-test-{os.getpid()}"
        path.write_bytes(b"data")
        store.put_file("part", path, hashlib.sha256(b"data").hexdigest())
        assert store.read("part") == b"data"
        assert not path.exists()
        assert list(store.spool_dir().iterdir()) == []

    def test_put_file_is_safe_to_repeat(self, store: LocalStore, tmp_path: Path) -> None:
        sha256 = hashlib.sha256(b"data").hexdigest()
        for _ in range(2):
            (tmp_path / "spool").write_bytes(b"data")
            store.put_file("part", tmp_path / "spool", sha256)
        (tmp_path / "spool").write_bytes(b"other")
        with pytest.raises(StateError, match="part` exists and is not ours; nothing was overwritten"):
            store.put_file("part", tmp_path / "spool", hashlib.sha256(b"other").hexdigest())
        assert store.read("part") == b"data"

    def test_what_the_dead_left_is_swept(self, store: LocalStore) -> None:
        (store.spool_dir() / "old").write_bytes(b"x")
        os.utime(store.spool_dir() / "old", (0, 0))
        (store.spool_dir() / "new").write_bytes(b"x")
        assert store.sweep_unfinished(3600, lambda name: True) == 1
        assert [path.name for path in store.spool_dir().iterdir()] == ["new"]
