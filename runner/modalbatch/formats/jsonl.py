"""JSON Lines, one object a line. Runs on: both.

Owns what counts as a record (RFC 8259 strictly, an object, any integer, no name twice) and how results are written.
Refuses `NaN` and `Infinity` both ways: msgspec would write them as `null`, the standard library as something that is
not JSON. Uses msgspec where it is installed and the standard library elsewhere, with one meaning.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import re
import sys
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, BinaryIO

from modalbatch.formats import Bare

Decoder = Callable[[bytes], Any]
Encoder = Callable[[Any, bytearray], None]
Doubt = Callable[[bytes, Any, int], bool]

#: Brackets in brackets, whatever limit the handler sets: the stack of a thread bears a multiple.
_MOST_NESTED = 5000
_FEW_BRACKETS = 200
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]')
#: JSON's word for each type a document may begin with.
_KINDS = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean", type(None): "null"}


class JsonlFormat:
    """Records as JSON objects, one a line."""

    name = "jsonl"

    def __init__(self, *, use_msgspec: bool | None = None) -> None:
        self._use_msgspec = find_spec("msgspec") is not None if use_msgspec is None else use_msgspec

    def decoder(self) -> Decoder:
        """A function from a line, with or without its end, to a dict; `ValueError` for anything else."""
        return _msgspec_decoder() if self._use_msgspec else _stdlib_decoder()

    def encoder(self) -> Encoder:
        r"""A function that appends a record and `\n` to a buffer; on an error the buffer is as it was."""
        return _msgspec_encoder() if self._use_msgspec else _stdlib_encoder()

    def bare(self) -> Bare:
        """msgspec's own functions; with the standard library the guarded ones, which it needs anyway."""
        if not self._use_msgspec:
            return Bare(_stdlib_decoder(), b":", _never, _stdlib_dumps(), refuse_non_finite, b"\n")
        import msgspec

        loads, dumps = _shallow(msgspec.json.Decoder().decode), msgspec.json.Encoder(enc_hook=_unknown).encode
        return Bare(loads, b":", _doubt(), dumps, refuse_non_finite, b"\n")

    def raw_records(self, stream: BinaryIO) -> BinaryIO:
        """The stream itself: a line is a record. Blank lines are lines too: the reader skips them."""
        return stream


def nesting(line: bytes) -> int:
    """How deep brackets stand in brackets, at most; of a short line only that it is not more than it has."""
    n_brackets = line.count(b"[") + line.count(b"{")
    if n_brackets <= _FEW_BRACKETS:
        return n_brackets
    depth = deepest = 0
    for found in _TOKEN.finditer(line):
        token = line[found.start()]
        if token in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in b"]}":
            depth -= 1
    return deepest


def _shallow(loads: Decoder) -> Decoder:
    """`loads`, safe where the handler has lifted the interpreter's limit: what is beyond it ends the process."""
    if sys.getrecursionlimit() <= _MOST_NESTED:
        return loads

    def guarded(line: bytes) -> Any:
        if nesting(line) > _MOST_NESTED:
            raise RecursionError("nested too deeply")
        return loads(line)

    return guarded


def _msgspec_decoder() -> Decoder:
    import msgspec

    loads, is_doubtful = _shallow(msgspec.json.Decoder().decode), _doubt()

    def decode(line: bytes) -> Any:
        try:
            record = loads(line)
            if type(record) is dict and (n := line.count(b":")) != len(record) and is_doubtful(line, record, n):
                _once(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if type(record) is not dict:
            raise ValueError(f"expected an object, found {_KINDS[type(record)]}")
        return record

    return decode


def _doubt() -> Doubt:
    """Whether a line may hold a name twice in one object, after a first look at the record's own fields.

    A line has a colon for each field, and those in its texts. Written again, the record has as many, unless msgspec
    dropped a field; only an escaped colon could hide one. All in C: 0.3 µs for a line as msgspec writes it, else 0.5.
    """
    import msgspec

    dumps = msgspec.json.Encoder().encode

    def is_doubtful(line: bytes, record: Any, n_colons: int) -> bool:
        again = dumps(record)
        if line.startswith(again):
            return False
        return again.count(b":") != n_colons or (b"\\" in line and (b"\\u003a" in line or b"\\u003A" in line))

    return is_doubtful


def _never(line: bytes, record: Any, n_colons: int) -> bool:
    return False


def _once(line: bytes) -> None:
    """Raise `ValueError` where an object has a name twice; by the standard library, which is slow and shows pairs."""
    json.JSONDecoder(object_pairs_hook=_object).decode(line.decode())


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"the key {json.dumps(twice[:100])} stands twice in one object")
    return found


def _stdlib_decoder() -> Decoder:
    strict = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float, object_pairs_hook=_object)
    loads = _shallow(lambda line: strict.decode(line.decode()))

    def decode(line: bytes) -> Any:
        try:
            record = loads(line)
            if b"\\u" in line:
                # A lone surrogate is no text: it could be read, and never be written again.
                json.dumps(record, ensure_ascii=False).encode()
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if type(record) is not dict:
            raise ValueError(f"expected an object, found {_KINDS[type(record)]}")
        return record

    return decode


def _refuse_constant(text: str) -> float:
    raise ValueError(f"`{text}` is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if value - value != 0.0:
        raise ValueError(f"number out of range: {text}")
    return value


def _msgspec_encoder() -> Encoder:
    import msgspec

    dumps = msgspec.json.Encoder(enc_hook=_unknown).encode

    def encode(record: Any, buffer: bytearray) -> None:
        try:
            # About 25 ns a field. Looking for `null` in the bytes costs 1 ns a byte: several times as much for texts.
            for value in record.values():
                kind = type(value)
                if kind is str or kind is int:
                    continue
                if kind is not float or value - value != 0.0:
                    refuse_non_finite(value)
            data = dumps(record)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except AttributeError:
            if isinstance(record, dict):
                raise
            raise TypeError(_not_an_object(record)) from None
        buffer += data
        buffer += b"\n"

    return encode


def _stdlib_dumps() -> Callable[[Any], bytes]:
    dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
    return lambda record: dumps(_plain(record)).encode()


def _stdlib_encoder() -> Encoder:
    dumps = _stdlib_dumps()

    def encode(record: Any, buffer: bytearray) -> None:
        if not isinstance(record, dict):
            raise TypeError(_not_an_object(record))
        try:
            data = dumps(record)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        buffer += data
        buffer += b"\n"

    return encode


def _not_an_object(record: Any) -> str:
    return f"expected a dict, found {type(record).__name__}"


def refuse_non_finite(value: Any) -> None:
    """Raise `ValueError` where a value that JSON has no word for (NaN, infinity) hides at any depth."""
    kind = type(value)
    if kind is float:
        if value - value != 0.0:
            raise ValueError(f"`{value}` has no JSON form; return None or a string instead")
    elif kind is dict:
        for item in value.values():
            refuse_non_finite(item)
    elif kind is list or kind is tuple:
        if value and type(value[0]) is float and _is_finite_sum(value):
            return
        for item in value:
            if type(item) is not str:
                refuse_non_finite(item)
    elif value is None or kind is bool or kind is int or kind is str:
        return
    else:
        refuse_non_finite(_plain(value))


def _is_finite_sum(values: Any) -> bool:
    """Whether a list is of numbers only, all finite: one pass in C for embeddings. False says nothing."""
    try:
        total = sum(values)
        return bool(total - total == 0.0)
    except (TypeError, OverflowError):
        return False


def _plain(value: Any) -> Any:
    """A value as JSON's own types, at every depth: the list of what a record may hold.

    Raises:
        TypeError: a value or key that has no JSON form.
    """
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    # Subclasses (`numpy.float64` is one) as what they are.
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        text = value.isoformat()
        return text[:-6] + "Z" if text.endswith("+00:00") else text
    if isinstance(value, (uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    raise TypeError(
        f"a `{type(value).__name__}` has no JSON form; return dicts, lists, strings, numbers, booleans and None"
    )


def _key(key: Any) -> Any:
    plain = _plain(key)
    if isinstance(plain, bool) or not isinstance(plain, (str, int, float)):
        raise TypeError(f"a key must be a string, found a `{type(key).__name__}`")
    return plain


def _unknown(value: Any) -> Any:
    """What msgspec asks for values, and keys, that it does not know."""
    plain = _plain(value)
    if type(plain) is type(value):
        raise TypeError(f"a key must be a string, found a `{type(value).__name__}`")
    return plain
