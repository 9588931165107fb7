"""gzip and zstd. Runs on: both.

Owns what compressed bytes are written (one self-contained member or frame a call, so that blocks can be joined) and
read (members and frames one after the other, zeros behind them, nothing else). Memory: one block, whatever the ratio.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from modalbatch.errors import CorruptInputError

#: Compression → suffix of files.
SUFFIXES = {"none": "", "gz": ".gz", "zst": ".zst"}
_WORDS = {"none": "plain data", "gz": "gzip data", "zst": "zstd data"}
_MAGIC = {"gz": b"\x1f\x8b", "zst": b"\x28\xb5\x2f\xfd"}
#: zstd frames that hold no data.
_SKIPPABLE = (0x184D2A50, 0x184D2A5F)
_LEVEL = 1
_BLOCK_BYTES = 64 << 10


def infer_compression(name: str) -> str:
    """The compression that a file's suffix names."""
    return next((kind for kind, suffix in SUFFIXES.items() if suffix and name.endswith(suffix)), "none")


def detect_compression(head: bytes) -> str:
    """The compression that the first four bytes show."""
    if head.startswith(_MAGIC["gz"]):
        return "gz"
    if head.startswith(_MAGIC["zst"]) or (
        len(head) >= 4 and _SKIPPABLE[0] <= int.from_bytes(head[:4], "little") <= _SKIPPABLE[1]
    ):
        return "zst"
    return "none"


def open_compressor(compression: str) -> Callable[[bytes | bytearray | memoryview], bytes]:
    """A function from bytes to one member (gz) or frame (zst); level 1, the same bytes for the same input."""
    if compression == "gz":
        return _compress_gz
    if compression == "zst":
        return _compress_zst
    return bytes


def _compress_gz(data: bytes | bytearray | memoryview) -> bytes:
    # wbits 31: a gzip header without name and time.
    try:
        from isal import isal_zlib
    except ImportError:
        writer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
        return writer.compress(data) + writer.flush()
    return bytes(isal_zlib.compress(data, _LEVEL, 31))


def _compress_zst(data: bytes | bytearray | memoryview) -> bytes:
    return bytes(_zstd().compress(data, _LEVEL))


def open_decompressor(raw: BinaryIO, compression: str, name: str) -> io.RawIOBase:
    """The decompressed bytes of a raw stream, itself raw. `name` stands in errors. Closes: `raw` with itself.

    Raises:
        CorruptInputError: at once for other data than `compression` says, while reading for a broken end.
    """
    head = _read_head(raw)
    found = detect_compression(head)
    if head and found != compression:
        raise _conflict(name, compression, found)
    source = _Rejoined(head, raw)
    if compression == "none" or not head:
        return source
    return _Decompressed(source, compression, name)


def refuse_compressed(head: bytes, name: str, inside: str = "none") -> None:
    """Refuse bytes that begin like an archive where plain ones are expected; `inside`: what they were compressed in."""
    found = detect_compression(head)
    if found != "none" and inside == "none":
        raise _conflict(name, "none", found)
    if found != "none":
        raise CorruptInputError(
            f"`{name}` is compressed twice: {_WORDS[found]} inside {_WORDS[inside]}", hint="decompress the file once"
        )


def _conflict(name: str, expected: str, found: str) -> CorruptInputError:
    return CorruptInputError(
        f"`{name}` holds {_WORDS[found]}, expected {_WORDS[expected]}",
        hint=f"rename the file, or set `source.compression: {found}`",
    )


def _read_head(raw: BinaryIO) -> bytes:
    head = b""
    while len(head) < 4 and (more := raw.read(4 - len(head))):
        head += more
    return head


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, raw: BinaryIO) -> None:
        super().__init__()
        self._head, self._raw = head, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._head:
            n_bytes = min(len(buffer), len(self._head))
            buffer[:n_bytes], self._head = self._head[:n_bytes], self._head[n_bytes:]
            return n_bytes
        return int(self._raw.readinto(buffer))  # type: ignore[attr-defined]

    def rewind(self) -> bool:
        """Go back to the beginning; False where the stream cannot."""
        if not self._raw.seekable():
            return False
        self._raw.seek(0)
        self._head = b""
        return True

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._raw.close()


class _Decompressed(io.RawIOBase):
    """A decompressor's output with the errors that a person can read."""

    def __init__(self, source: _Rejoined, compression: str, name: str) -> None:
        super().__init__()
        self._source, self._name = source, name
        self._is_fast = compression == "gz"
        self._given_up: Any = None
        self._kind = {"gz": "gzip", "zst": "zstd"}[compression]
        self._n_given = 0
        buffered = io.BufferedReader(source, 256 << 10)
        self._reader: Any = _open_gz(buffered) if compression == "gz" else _zstd().ZstdFile(buffered)
        self._errors = _errors(compression)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._n_given

    def readinto(self, buffer: Any) -> int:
        try:
            # A little at a time: what comes before a break is given before the error.
            data = self._reader.read1(min(len(buffer), _BLOCK_BYTES))
        except (EOFError, *self._errors) as error:
            if self._is_fast and self._begin_slowly():
                return self.readinto(buffer)
            raise self._broken(error) from None
        buffer[: len(data)] = data
        self._n_given += len(data)
        return len(data)

    def _broken(self, error: Exception) -> CorruptInputError:
        if isinstance(error, EOFError):
            what = f"ends in the middle of its {self._kind} data"
        else:
            what = f"is not whole {self._kind} data: {error}"
        return CorruptInputError(f"`{self._name}` {what}", hint="replace the file with a whole copy")

    def _begin_slowly(self) -> bool:
        """Go to the same place with the standard library: isal drops what stands right before a break."""
        self._is_fast = False
        if not self._source.rewind():
            return False
        self._given_up = self._reader  # which would close the source with itself
        self._reader = gzip.GzipFile(fileobj=io.BufferedReader(self._source, 256 << 10), mode="rb")
        n_left = self._n_given
        try:
            while n_left and (data := self._reader.read1(min(n_left, _BLOCK_BYTES))):
                n_left -= len(data)
        except (EOFError, *self._errors):
            return False
        return not n_left

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._reader.close()
            self._source.close()


def _open_gz(buffered: Any) -> Any:
    try:
        from isal import igzip
    except ImportError:
        return gzip.GzipFile(fileobj=buffered, mode="rb")
    return igzip.IGzipFile(fileobj=buffered, mode="rb")


def _errors(compression: str) -> tuple[Any, ...]:
    if compression == "zst":
        return (_zstd().ZstdError,)
    try:
        from isal import isal_zlib
    except ImportError:
        return (gzip.BadGzipFile, zlib.error)
    return (gzip.BadGzipFile, zlib.error, isal_zlib.IsalError)


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
