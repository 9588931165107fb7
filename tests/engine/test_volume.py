"""Volumes as files: the client's library and its command line."""

from __future__ import annotations

import pytest

_SCRIPT = """
import io, os, modal
v = modal.Volume.from_name("lib", create_if_missing=True, version={version})
big = os.urandom(9 << 20) + b"\\0" * 1000
with v.batch_upload() as batch:
    batch.put_file(io.BytesIO(b"small"), "/a/small.txt")
    batch.put_file(io.BytesIO(big), "/a/big.bin")
    batch.put_file(io.BytesIO(b""), "/empty")
try:
    with v.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"again"), "/a/small.txt")
except FileExistsError:
    print("EXISTS")
with v.batch_upload(force=True) as batch:
    batch.put_file(io.BytesIO(b"forced"), "/a/small.txt")
assert b"".join(v.read_file("a/big.bin")) == big
assert b"".join(v.read_file("a/small.txt")) == b"forced"
assert b"".join(v.read_file("empty")) == b""
print("LIST", sorted((e.path, e.type.name, e.size) for e in v.iterdir("/", recursive=True) if e.type.name == "FILE"))
v.copy_files(["a/small.txt"], "b/copy.txt")
v.remove_file("a", recursive=True)
print("LEFT", [e.path for e in v.listdir("/", recursive=True)])
for path in ("nothing", "a/small.txt"):
    try:
        list(v.read_file(path))
    except FileNotFoundError:
        print("MISSING", path)
"""


@pytest.mark.parametrize("version", [1, 2])
def test_library(bench, version):
    output = bench.python(_SCRIPT.format(version=version).replace('"lib"', f'"lib{version}"'))
    size = (9 << 20) + 1000
    assert "EXISTS" in output
    assert f"LIST [('a/big.bin', 'FILE', {size}), ('a/small.txt', 'FILE', 6), ('empty', 'FILE', 0)]" in output
    assert "LEFT ['b', 'b/copy.txt', 'empty']" in output
    assert "MISSING nothing" in output
    assert "MISSING a/small.txt" in output
    assert (bench.home / "volumes" / "main" / f"lib{version}" / "b" / "copy.txt").read_bytes() == b"forced"


def test_command_line(bench, tmp_path):
    (tmp_path / "in.txt").write_text("from the laptop")
    bench.modal("volume", "create", "cli")
    bench.modal("volume", "put", "cli", str(tmp_path / "in.txt"), "folder/in.txt")
    assert "folder/in.txt" in bench.modal("volume", "ls", "cli", "folder")
    bench.modal("volume", "get", "cli", "folder/in.txt", str(tmp_path / "out.txt"))
    assert (tmp_path / "out.txt").read_text() == "from the laptop"
    bench.modal("volume", "rm", "cli", "folder", "--recursive")
    assert "cli" in bench.modal("volume", "list")
    bench.modal("volume", "delete", "cli", "--yes")
    assert "not found" in bench.modal("volume", "ls", "cli", code=1)
    assert not (bench.home / "volumes" / "main" / "cli").exists()


def test_a_path_cannot_leave_the_volume(bench):
    source = (
        "import modal; v = modal.Volume.from_name('in', create_if_missing=True); print(list(v.read_file('../../x')))"
    )
    assert "is outside the volume" in bench.python(source, 1)


def test_many_upload_the_same_at_once(bench):
    output = bench.python(
        "import io, threading, modal\n"
        "v = modal.Volume.from_name('same', create_if_missing=True, version=2); v.hydrate(); failed = []\n"
        "def put(n):\n"
        "    try:\n"
        "        with v.batch_upload() as batch:\n"
        "            batch.put_file(io.BytesIO(b'equal' * 100_000), f'/f{n}')\n"
        "    except Exception as error:\n        failed.append(error)\n"
        "for _ in range(3):\n"
        "    threads = [threading.Thread(target=put, args=(f'{_}-{n}',)) for n in range(8)]\n"
        "    [thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "print('FAILED', failed, len(list(v.iterdir('/'))))\n"
    )
    assert "FAILED [] 24" in output
    assert not list((bench.home / "volumes" / "main" / "same").glob(".modalbatch-*"))
