"""gzip and zstd, whole and broken."""

from __future__ import annotations

import gzip
import io
import resource
import zlib

import pytest

from modalbatch.errors import CorruptInputError
from modalbatch.formats.compression import (
    SUFFIXES,
    detect_compression,
    infer_compression,
    open_compressor,
    open_decompressor,
)

KINDS = ["gz", "zst"]
WORDS = {"gz": "gzip", "zst": "zstd"}


def plain(data: bytes, compression: str) -> bytes:
    with open_decompressor(io.BytesIO(data), compression, "x") as stream:
        return stream.read()


@pytest.mark.parametrize("compression", KINDS)
class TestBoth:
    def test_calls_can_be_joined_and_repeat_themselves(self, compression: str) -> None:
        compress = open_compressor(compression)
        blocks = [b"", b"a", b"line\n" * 100_000]
        data = b"".join(map(compress, blocks))
        assert plain(data, compression) == b"".join(blocks)
        assert data == b"".join(compress(bytearray(block)) for block in blocks)

    def test_members_are_self_contained(self, compression: str) -> None:
        compress = open_compressor(compression)
        assert plain(compress(b"second"), compression) == b"second"

    def test_empty_is_empty(self, compression: str) -> None:
        assert plain(b"", compression) == b""

    @pytest.mark.parametrize("kept", [-1, -5, 20, 6])
    def test_a_cut_file_is_named(self, compression: str, kept: int) -> None:
        data = open_compressor(compression)(bytes(range(256)) * 1000)[:kept]
        with pytest.raises(CorruptInputError) as caught:
            plain(data, compression)
        assert caught.value.message == f"`x` ends in the middle of its {WORDS[compression]} data"
        assert caught.value.hint == "replace the file with a whole copy"

    def test_a_cut_second_member_is_named(self, compression: str) -> None:
        compress = open_compressor(compression)
        with pytest.raises(CorruptInputError, match="ends in the middle"):
            plain(compress(b"first") + compress(b"second")[:-3], compression)

    def test_garbage_behind_is_named(self, compression: str) -> None:
        with pytest.raises(CorruptInputError, match=f"`x` is not whole {WORDS[compression]} data"):
            plain(open_compressor(compression)(b"data") + b"garbage behind it", compression)

    def test_damage_is_named(self, compression: str) -> None:
        data = bytearray(open_compressor(compression)(bytes(range(256)) * 1000))
        data[len(data) // 2] ^= 0xFF
        data[-2] ^= 0xFF
        with pytest.raises(CorruptInputError):
            plain(bytes(data), compression)

    def test_a_bomb_is_read_in_blocks(self, compression: str) -> None:
        bomb = open_compressor(compression)(bytes(1 << 20)) * 400
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        n_bytes = 0
        with open_decompressor(io.BytesIO(bomb), compression, "x") as stream:
            while block := stream.read(1 << 16):
                n_bytes += len(block)
        assert n_bytes == 400 << 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000

    def test_closing_closes_the_source(self, compression: str) -> None:
        source = io.BytesIO(open_compressor(compression)(b"x"))
        open_decompressor(source, compression, "x").close()
        assert source.closed


def test_zeros_behind_gzip_are_fine() -> None:
    assert plain(gzip.compress(b"data") + bytes(1000), "gz") == b"data"


def test_gzip_with_a_name_inside() -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile("name.txt", "wb", fileobj=buffer) as file:
        file.write(b"data")
    assert plain(buffer.getvalue(), "gz") == b"data"
    assert zlib.decompress(open_compressor("gz")(b"data"), 31) == b"data"


def test_none_is_as_it_is() -> None:
    assert open_compressor("none")(bytearray(b"data")) == b"data"
    assert plain(b"data", "none") == b"data"


@pytest.mark.parametrize(
    ("name", "compression"), [("a.jsonl.gz", "gz"), ("a.jsonl.zst", "zst"), ("a.jsonl", "none"), ("gz", "none")]
)
def test_names_say_what_they_hold(name: str, compression: str) -> None:
    assert infer_compression(name) == compression
    assert name.endswith(SUFFIXES[compression])


def test_bytes_say_what_they_are() -> None:
    assert detect_compression(b"\x1f\x8b\x08\x00") == "gz"
    assert detect_compression(b"\x28\xb5\x2f\xfd") == "zst"
    assert detect_compression(b"\x52\x2a\x4d\x18") == "zst"
    assert detect_compression(b'{"a"') == "none"
    assert detect_compression(b"") == "none"
