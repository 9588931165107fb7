"""What every store does. A test class inherits it and gives a `store` fixture on an empty place."""

from __future__ import annotations

import hashlib
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modalbatch.errors import InputChangedError, NotFoundError
from modalbatch.stores import Store

NAMES = ["a-b.txt", "a.txt", "a/b/c.txt", "a/x.txt", "a0.txt", "b", "é.txt", "中/文.txt", "sp ace #1?%41+&.txt"]


class StoreSuite:
    def test_an_absent_root_is_empty(self, store: Store) -> None:
        assert list(store.list()) == []
        assert list(store.list("no/such/")) == []

    def test_lists_every_object_in_byte_order(self, store: Store) -> None:
        for name in NAMES:
            store.replace(name, name.encode())
        found = list(store.list())
        assert [entry.name for entry in found] == sorted(NAMES, key=str.encode)
        assert [entry.size_bytes for entry in found] == [len(name.encode()) for name in sorted(NAMES, key=str.encode)]

    @pytest.mark.parametrize("prefix", ["a", "a/", "a/b", "a.", "zz", "a/b/c.txt", "中/"])
    def test_lists_what_begins_with_a_prefix(self, store: Store, prefix: str) -> None:
        for name in NAMES:
            store.replace(name, b"")
        expected = sorted((name for name in NAMES if name.startswith(prefix)), key=str.encode)
        assert [entry.name for entry in store.list(prefix)] == expected

    def test_descend_loses_nothing_it_wants(self, store: Store) -> None:
        for name in ["a/1", "b/1", "b/c/1", "d", "e/1"]:
            store.replace(name, b"")
        found = [entry.name for entry in store.list(descend=lambda folder: folder.startswith("b/"))]
        assert [name for name in found if name.startswith("b/") or "/" not in name] == ["b/1", "b/c/1", "d"]
        assert found == sorted(found)

    def test_stat_agrees_with_list(self, store: Store) -> None:
        store.replace("x/y.txt", b"123")
        assert [store.stat("x/y.txt")] == list(store.list())
        assert store.stat("x") is None
        assert store.stat("x/y") is None

    def test_reads_what_was_written(self, store: Store) -> None:
        data = os.urandom(300_000)
        store.replace("blob", data)
        assert store.read("blob") == data

    def test_reading_nothing_says_so(self, store: Store) -> None:
        store.replace("present", b"")
        with pytest.raises(NotFoundError, match="absent` does not exist"):
            store.read("absent")
        with pytest.raises(NotFoundError, match="absent` does not exist"):
            store.open("absent", start=1, end=2)

    @pytest.mark.parametrize(
        ("start", "end"), [(0, None), (0, 10), (5, 5), (7, 600_001), (599_999, None), (100, 10**9)]
    )
    def test_opens_a_range(self, store: Store, start: int, end: int | None) -> None:
        data = os.urandom(600_000)
        store.replace("blob", data)
        with store.open("blob", start=start, end=end) as stream:
            assert stream.read() == data[start:end]

    def test_opens_behind_the_end(self, store: Store) -> None:
        store.replace("blob", b"12345")
        store.replace("empty", b"")
        for name, start in (("blob", 5), ("blob", 50), ("empty", 0)):
            with store.open(name, start=start, end=start + 10) as stream:
                assert stream.read() == b""

    def test_opens_the_pinned_object_only(self, store: Store) -> None:
        store.replace("blob", b"before")
        entry = store.stat("blob")
        assert entry is not None
        with store.open("blob", pin=entry.pin) as stream:
            assert stream.read() == b"before"
        store.replace("blob", b"after it")
        with pytest.raises(InputChangedError, match="blob` changed after it was listed"):
            store.open("blob", pin=entry.pin).read()

    def test_create_is_write_once(self, store: Store) -> None:
        assert store.create("r/one.json", b"mine") is True
        assert store.create("r/one.json", b"mine") is True
        assert store.create("r/one.json", b"other") is False
        assert store.read("r/one.json") == b"mine"

    def test_one_of_many_threads_creates(self, store: Store) -> None:
        tokens = [uuid.uuid4().hex.encode() for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda token: store.create("race", token), tokens))
        assert won.count(True) == 1
        assert store.read("race") == tokens[won.index(True)]

    def test_put_file_publishes_and_takes_the_file_away(self, store: Store) -> None:
        for size in (0, 1, 1_000_000):
            data = os.urandom(size)
            path = store.spool_dir() / f"spool-{uuid.uuid4().hex}"
            path.write_bytes(data)
            store.put_file(f"parts/part-{size}", path, hashlib.sha256(data).hexdigest())
            assert store.read(f"parts/part-{size}") == data
            assert not path.exists()

    def test_put_file_from_another_folder(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "elsewhere"
        path.write_bytes(b"data")
        store.put_file("part", path, hashlib.sha256(b"data").hexdigest())
        assert store.read("part") == b"data"
        assert not path.exists()

    def test_replace_overwrites(self, store: Store) -> None:
        store.replace("_SUCCESS", b"1")
        store.replace("_SUCCESS", b"22")
        assert store.read("_SUCCESS") == b"22"

    def test_deletes_many_and_absent(self, store: Store) -> None:
        for index in range(3):
            store.replace(f"d/{index}", b"")
        store.delete(f"d/{index}" for index in range(5))
        store.delete([])
        assert list(store.list()) == []

    def test_probe_leaves_nothing(self, store: Store) -> None:
        store.probe()
        assert list(store.list()) == []

    def test_nothing_unfinished_to_sweep(self, store: Store) -> None:
        assert store.sweep_unfinished(0, lambda name: True) == 0

    def test_commit_and_refresh_are_safe(self, store: Store) -> None:
        store.replace("x", b"1")
        store.commit()
        store.refresh()
        assert store.read("x") == b"1"
