"""Files as a source: what URIs mean, how they are cut, what they hold."""

from __future__ import annotations

import gzip
import hashlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from fault_proxy import FaultProxy
from modalbatch import job
from modalbatch.errors import CorruptInputError, InputChangedError, ModalbatchError, NotFoundError
from modalbatch.formats.compression import open_compressor
from modalbatch.sources.files import FileSource
from modalbatch.stores import Store
from servers import Bucket


def write(folder: Path, **files: bytes) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def source_of(folder: Path, *uris: str, **what) -> FileSource:
    cache = what.pop("identity_cache", None)
    return FileSource(job.Source(uris=uris, **what), {"": f"{folder}/"}, cache)


def uris(source: FileSource) -> list[str]:
    return [found.uri for found in source.inputs()]


def lines(source: FileSource) -> list[bytes]:
    found = []
    for unit in source.units():
        with source.open(unit) as stream:
            found += list(stream)
    return found


class TestInputs:
    def test_patterns_keep_their_order_and_bytes_order_within(self, tmp_path: Path) -> None:
        write(tmp_path, **dict.fromkeys(["d/b.jsonl", "d/a.jsonl", "d/sub/c.jsonl", "e/x.jsonl", "d/_t.jsonl"], b"1"))
        assert uris(source_of(tmp_path, "e/*.jsonl", "d/**/*.jsonl")) == [
            "e/x.jsonl", "d/a.jsonl", "d/b.jsonl", "d/sub/c.jsonl",
        ]  # fmt: skip

    def test_each_input_once(self, tmp_path: Path) -> None:
        write(tmp_path, **dict.fromkeys(["d/a.jsonl", "d/b.jsonl", "d/c.txt"], b"1"))
        assert uris(source_of(tmp_path, "d/b.jsonl", "./d/*.jsonl", "d/", "d/c.txt")) == [
            "d/b.jsonl", "d/a.jsonl", "d/c.txt",
        ]  # fmt: skip

    def test_a_folder_means_everything_below(self, tmp_path: Path) -> None:
        write(tmp_path, **dict.fromkeys(["d/a", "d/x/y/b", "d/.hidden", "d/_modalbatch/owner.json"], b"1"))
        assert uris(source_of(tmp_path, "d/")) == ["d/a", "d/x/y/b"]

    def test_a_named_file_must_be_there(self, tmp_path: Path) -> None:
        write(tmp_path, **{"d/a": b"1"})
        with pytest.raises(NotFoundError) as caught:
            uris(source_of(tmp_path, "d"))
        assert caught.value.message == "`d` is not a file"
        assert caught.value.hint == (
            "for all files of a folder write `d/`; `allow_empty: true` accepts that there is none"
        )
        assert uris(source_of(tmp_path, "d", allow_empty=True)) == []

    def test_what_a_pattern_does_not_find_is_empty(self, tmp_path: Path) -> None:
        assert uris(source_of(tmp_path, "no/*.jsonl", "none/")) == []

    def test_absolute_uris_name_themselves(self, tmp_path: Path) -> None:
        write(tmp_path, **{"a": b"1"})
        assert uris(FileSource(job.Source(uris=(f"{tmp_path}/*",)), {})) == [f"{tmp_path}/a"]

    def test_the_longest_root_wins(self, tmp_path: Path) -> None:
        write(tmp_path, **{"one/a": b"1", "two/a": b"22"})
        roots = {"": f"{tmp_path}/none/", "in/": f"{tmp_path}/one/", "in/deep/": f"{tmp_path}/two/"}
        found = FileSource(job.Source(uris=("in/deep/*", "in/a", "/in/")), roots)
        assert [(item.uri, item.size_bytes) for item in found.inputs()] == [("in/deep/a", 2), ("in/a", 1)]

    def test_staged_files_keep_uri_and_identity(self, tmp_path: Path) -> None:
        data = b'{"a":1}\n'
        sha256 = hashlib.sha256(data).hexdigest()
        write(tmp_path, **{f"inputs/{sha256}": data})
        roots = {"data/a.jsonl": f"{tmp_path}/inputs/{sha256}", "data/_no.jsonl": f"{tmp_path}/inputs/{sha256}"}
        source = FileSource(job.Source(uris=("data/*.jsonl",)), roots)
        assert [(item.uri, item.identity) for item in source.inputs()] == [("data/a.jsonl", sha256)]
        assert lines(source) == [data]
        assert uris(FileSource(job.Source(uris=("data/a.jsonl",)), roots)) == ["data/a.jsonl"]

    def test_staged_files_join_a_listing(self, tmp_path: Path) -> None:
        write(tmp_path, **{"d/a": b"1", "d/c": b"1", "staged/x": b"22", "staged/y": b"22"})
        roots = {"": f"{tmp_path}/", "d/b": f"{tmp_path}/staged/x", "d/c": f"{tmp_path}/staged/y"}
        found = FileSource(job.Source(uris=("d/*",)), roots)
        assert [(item.uri, item.size_bytes) for item in found.inputs()] == [("d/a", 1), ("d/b", 2), ("d/c", 2)]

    def test_a_sink_is_read_through_its_manifest(self, tmp_path: Path) -> None:
        write(
            tmp_path, **{"out/part-1": b"1", "out/part-2": b"1", "out/part-0": b"1", "out/_modalbatch/owner.json": b""}
        )
        asked: list[str] = []

        def live(store: Store) -> list[str]:
            asked.append(store.uri)
            return ["part-2", "part-1", "part-gone"]

        for uri in ("out/", "out/part-*", "out/*"):
            source = FileSource(job.Source(uris=(uri,)), {"": f"{tmp_path}/"}, manifest_parts=live)
            assert uris(source) == ["out/part-1", "out/part-2"]
        assert asked == [f"{tmp_path}/out/"] * 3
        source = FileSource(job.Source(uris=("out/",)), {"": f"{tmp_path}/"}, manifest_parts=lambda store: None)
        assert uris(source) == ["out/part-0", "out/part-1", "out/part-2"]

    @pytest.mark.parametrize(
        "name", ["new\nline", "quo'te", "<img onerror>", "x" * 255, "é中", "a\\b", "%41", "sp ace"]
    )
    def test_odd_names(self, tmp_path: Path, name: str) -> None:
        write(tmp_path, **{f"d/{name}": b"line\n"})
        source = source_of(tmp_path, "d/*")
        assert uris(source) == [f"d/{name}"]
        assert lines(source) == [b"line\n"]

    def test_a_name_that_is_not_text_is_refused(self, tmp_path: Path) -> None:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.jsonl", "wb"):
            pass
        with pytest.raises(ModalbatchError) as caught:
            uris(source_of(tmp_path, "*.jsonl"))
        assert caught.value.message == "the name of `caf\\udce9.jsonl` is not UTF-8"

    def test_is_lazy(self, tmp_path: Path) -> None:
        write(tmp_path, **{f"{index:04}": b"1" for index in range(200)})
        listing = source_of(tmp_path, "*").inputs()
        assert next(listing).uri == "0000"
        (tmp_path / "0100").write_bytes(b"22")
        assert sum(item.size_bytes for item in listing) == 200


class TestIdentity:
    def test_is_the_content(self, tmp_path: Path) -> None:
        write(tmp_path, **{f"{index}": bytes([index]) * 100_000 for index in range(40)})
        found = list(source_of(tmp_path, "*").inputs())
        assert [item.identity for item in found] == [
            hashlib.sha256((tmp_path / item.uri).read_bytes()).hexdigest() for item in found
        ]

    def test_is_remembered_and_forgotten_with_the_file(self, tmp_path: Path) -> None:
        write(tmp_path, **{"d/a": b"1"})
        cache = tmp_path / "state/identities.db"
        source = source_of(tmp_path, "d/a", identity_cache=cache)
        os.utime(tmp_path / "d/a", (10**9, 10**9))
        (first,) = source.inputs()
        rows = sqlite3.connect(cache).execute("select path, sha256 from content").fetchall()
        assert rows == [(os.fsencode(tmp_path / "d/a"), first.identity)]
        sqlite3.connect(cache, isolation_level=None).execute("update content set sha256 = 'cached'")
        assert [item.identity for item in source.inputs()] == ["cached"]
        write(tmp_path, **{"d/a": b"2"})
        assert [item.identity for item in source.inputs()] == [hashlib.sha256(b"2").hexdigest()]

    def test_a_file_just_written_is_not_remembered(self, tmp_path: Path) -> None:
        write(tmp_path, **{"d/a": b"1"})
        now = time.time()
        os.utime(tmp_path / "d/a", (now, now))
        cache = tmp_path / "identities.db"
        list(source_of(tmp_path, "d/a", identity_cache=cache).inputs())
        assert sqlite3.connect(cache).execute("select count(*) from content").fetchone() == (0,)

    @pytest.mark.parametrize("broken", [b"not a database, by far not" * 100, None])
    def test_a_broken_cache_costs_time_only(self, tmp_path: Path, broken: bytes | None) -> None:
        write(tmp_path, **{"d/a": b"1"})
        cache = tmp_path / "identities.db"
        if broken is None:
            cache.mkdir()
        else:
            cache.write_bytes(broken)
        source = source_of(tmp_path, "d/a", identity_cache=cache)
        assert [item.identity for item in source.inputs()] == [hashlib.sha256(b"1").hexdigest()]


class TestUnits:
    def cuts(self, folder: Path, **what) -> list[tuple[str, int, int, bool]]:
        found = source_of(folder, "*", **what).units()
        return [(unit.uri, unit.start, unit.end, unit.whole) for unit in found]

    def test_auto(self, tmp_path: Path) -> None:
        write(
            tmp_path, **{"a.jsonl": b"x" * ((8 << 20) + 1), "b.jsonl": b"", "c.jsonl.gz": b"123", "d.jsonl.zst": b"1"}
        )
        assert self.cuts(tmp_path) == [
            ("a.jsonl", 0, 8 << 20, False),
            ("a.jsonl", 8 << 20, (8 << 20) + 1, False),
            ("b.jsonl", 0, 0, False),
            ("c.jsonl.gz", 0, 3, True),
            ("d.jsonl.zst", 0, 1, True),
        ]

    def test_bytes_and_files(self, tmp_path: Path) -> None:
        write(tmp_path, **{"a": b"123"})
        assert self.cuts(tmp_path, split=job.Split(bytes=2)) == [("a", 0, 2, False), ("a", 2, 3, False)]
        assert self.cuts(tmp_path, split=job.Split(files=9)) == [("a", 0, 3, False)]
        assert self.cuts(tmp_path, compression="gz") == [("a", 0, 3, True)]

    def test_an_empty_file_has_no_lines(self, tmp_path: Path) -> None:
        write(tmp_path, **{"a.jsonl": b"", "b.jsonl.gz": b"", "c.jsonl.zst": b""})
        assert lines(source_of(tmp_path, "*")) == []

    def test_a_changed_file_is_not_read(self, tmp_path: Path) -> None:
        write(tmp_path, **{"a.jsonl": b"1\n", "b.jsonl.gz": gzip.compress(b"1\n")})
        source = source_of(tmp_path, "*")
        units = list(source.units())
        write(tmp_path, **{"a.jsonl": b"22\n", "b.jsonl.gz": gzip.compress(b"1\n2\n3\n")})
        for unit in units:
            with pytest.raises(InputChangedError, match="changed after it was listed"):
                source.open(unit).read()

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        write(tmp_path, **{"a.jsonl": b"1\n"})
        source = source_of(tmp_path, "*")
        (unit,) = source.units()
        (tmp_path / "a.jsonl").unlink()
        with pytest.raises(NotFoundError, match=r"a.jsonl` does not exist"):
            source.open(unit).read()

    def test_where_the_first_line_begins(self, tmp_path: Path) -> None:
        write(tmp_path, **{"a.jsonl": b"\xef\xbb\xbf1\n22\n333\n"})
        source = source_of(tmp_path, "*", split=job.Split(bytes=6))
        begins = []
        for unit in source.units():
            with source.open(unit) as stream:
                assert stream.tell() == 0
                first = stream.readline()
                begins.append((stream.raw.first_byte, first, stream.tell()))
        assert begins == [(3, b"1\n", 2), (8, b"333\n", 4)]


class TestCompressed:
    @pytest.mark.parametrize("suffix", ["gz", "zst"])
    def test_members_one_after_the_other(self, tmp_path: Path, suffix: str) -> None:
        compress = open_compressor(suffix)
        write(tmp_path, **{f"a.jsonl.{suffix}": compress(b"\xef\xbb\xbf1\n2") + compress(b"") + compress(b"\n3")})
        assert lines(source_of(tmp_path, "*")) == [b"1\n", b"2\n", b"3"]

    def test_named_by_the_spec(self, tmp_path: Path) -> None:
        write(tmp_path, **{"a.dat": gzip.compress(b"1\n2\n")})
        assert lines(source_of(tmp_path, "*", compression="gz")) == [b"1\n", b"2\n"]

    @pytest.mark.parametrize(
        ("name", "data", "message", "hint"),
        [
            ("a.jsonl.gz", b'{"a":1}\n', "`a.jsonl.gz` holds plain data, expected gzip data", "none"),
            ("a.jsonl.zst", gzip.compress(b"1"), "`a.jsonl.zst` holds gzip data, expected zstd data", "gz"),
            ("a.jsonl", gzip.compress(b"1"), "`a.jsonl` holds gzip data, expected plain data", "gz"),
            ("a.jsonl", open_compressor("zst")(b"1"), "`a.jsonl` holds zstd data, expected plain data", "zst"),
        ],
        ids=["plain-as-gz", "gz-as-zst", "gz-as-plain", "zst-as-plain"],
    )
    def test_a_name_that_says_otherwise(self, tmp_path: Path, name: str, data: bytes, message: str, hint: str) -> None:
        write(tmp_path, **{name: data})
        with pytest.raises(CorruptInputError) as caught:
            lines(source_of(tmp_path, "*"))
        assert caught.value.message == message
        assert caught.value.hint == f"rename the file, or set `source.compression: {hint}`"


class TestS3:
    def test_lists_from_the_literal_prefix_and_reads_pinned(self, s3_bucket: Bucket, fault_proxy: FaultProxy) -> None:
        client = s3_bucket.client()
        for key in ["d/x=1/a.jsonl", "d/x=2/b.jsonl", "d/y=1/c.jsonl", "d/x=1/_t.jsonl", "d/x=3/", "e/a.jsonl"]:
            client.put_object(Bucket=s3_bucket.name, Key=key, Body=b"" if key.endswith("/") else b"1\n2\n3\n")
        uri = f"{s3_bucket.uri}d/x=*/*.jsonl"
        source = FileSource(job.Source(uris=(uri,), endpoint_url=fault_proxy.url, split=job.Split(bytes=2)), {})
        found = list(source.inputs())
        assert [item.uri for item in found] == [f"{s3_bucket.uri}d/x=1/a.jsonl", f"{s3_bucket.uri}d/x=2/b.jsonl"]
        assert found[0].identity == hashlib.md5(b"1\n2\n3\n").hexdigest() == found[0].pin
        assert all("prefix=d%2Fx%3D" in seen.path for seen in fault_proxy.seen)
        assert lines(source) == [b"1\n", b"2\n", b"3\n"] * 2

    def test_a_unit_is_one_request(self, s3_bucket: Bucket, fault_proxy: FaultProxy) -> None:
        data = b"x" * 99 + b"\n"
        s3_bucket.client().put_object(Bucket=s3_bucket.name, Key="a.jsonl", Body=data * 50_000)
        source = FileSource(
            job.Source(uris=(f"{s3_bucket.uri}a.jsonl",), endpoint_url=fault_proxy.url, split=job.Split(bytes=1 << 20)),
            {},
        )
        units = list(source.units())
        fault_proxy.seen.clear()
        assert sum(len(list(source.open(unit))) for unit in units) == 50_000
        assert [seen.method for seen in fault_proxy.seen] == ["GET"] * len(units)

    def test_an_overwritten_object_is_not_read(self, s3_bucket: Bucket) -> None:
        client = s3_bucket.client()
        client.put_object(Bucket=s3_bucket.name, Key="a.jsonl", Body=b"1\n")
        source = FileSource(job.Source(uris=(f"{s3_bucket.uri}a.jsonl",), endpoint_url=s3_bucket.endpoint_url), {})
        (unit,) = source.units()
        client.put_object(Bucket=s3_bucket.name, Key="a.jsonl", Body=b"2\n")
        with pytest.raises(InputChangedError, match=r"a.jsonl` changed after it was listed"):
            source.open(unit).read()
