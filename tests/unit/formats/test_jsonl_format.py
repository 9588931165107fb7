"""JSON Lines, with msgspec and with the standard library: one meaning."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import io
import json
import uuid

import pytest

from modalbatch.formats.jsonl import JsonlFormat

NAN, INF = float("nan"), float("inf")


class Colour(enum.Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


class Number(float):
    __slots__ = ()


@dataclasses.dataclass
class Point:
    x: float


@pytest.fixture(params=[True, False], ids=["msgspec", "stdlib"])
def jsonl(request: pytest.FixtureRequest) -> JsonlFormat:
    return JsonlFormat(use_msgspec=request.param)


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (b'{"a":1}\n', {"a": 1}),
        (b' {"a" : [1, 2.5, null, true, "x"]} \r\n', {"a": [1, 2.5, None, True, "x"]}),
        (b"{}", {}),
        (b'{"a":123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        (b'{"a":-9223372036854775809}', {"a": -9223372036854775809}),
        (b'{"a":"\\u0000"}', {"a": "\0"}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        ('{"a":"\u2028\x85"}'.encode(), {"a": "\u2028\x85"}),
        (b'{"a":"{{7*7}}"}', {"a": "{{7*7}}"}),
    ],
)
def test_reads(jsonl: JsonlFormat, line: bytes, record: dict) -> None:
    assert jsonl.decoder()(line) == record


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"{", b'{"a":1} x', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e400}',
        b'{"a":01}', b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'{"\\udc00":1}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\t"}',
        b"{'a':1}", b'\xef\xbb\xbf{"a":1}', b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)  # fmt: skip
def test_refuses_what_is_no_json(jsonl: JsonlFormat, line: bytes) -> None:
    with pytest.raises(ValueError):
        jsonl.decoder()(line)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"[1]", "an array"),
        (b"1", "a number"),
        (b"1.5", "a number"),
        (b'"x"', "a string"),
        (b"true", "a boolean"),
        (b"null", "null"),
    ],
)
def test_a_record_is_an_object(jsonl: JsonlFormat, line: bytes, found: str) -> None:
    with pytest.raises(ValueError, match=f"^expected an object, found {found}$"):
        jsonl.decoder()(line)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"a": 1, "b": [1.5, None, True, "é\u2028"]}, '{"a":1,"b":[1.5,null,true,"é\u2028"]}\n'),
        ({"a": 2**70, 1: (1, 2)}, '{"a":1180591620717411303424,"1":[1,2]}\n'),
        ({"a": Text("x"), "b": Number(1.5)}, '{"a":"x","b":1.5}\n'),
        ({"a": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone.utc)}, '{"a":"2026-01-02T03:04:00Z"}\n'),
        ({"a": datetime.date(2026, 1, 2)}, '{"a":"2026-01-02"}\n'),
        (
            {"a": uuid.UUID(int=1), "b": decimal.Decimal("1.50")},
            '{"a":"00000000-0000-0000-0000-000000000001","b":"1.50"}\n',
        ),
        ({"a": b"xyz", "b": Colour.RED, "c": Point(1.5), "d": {7}}, '{"a":"eHl6","b":"red","c":{"x":1.5},"d":[7]}\n'),
        ({"a": {b"k": 1, uuid.UUID(int=1): 2}}, '{"a":{"aw==":1,"00000000-0000-0000-0000-000000000001":2}}\n'),
        ({"a": ["null", None], "b": {"c": None}}, '{"a":["null",null],"b":{"c":null}}\n'),
    ],
)
def test_writes(jsonl: JsonlFormat, record: dict, line: str) -> None:
    buffer = bytearray(b"before\n")
    jsonl.encoder()(record, buffer)
    assert buffer == b"before\n" + line.encode()


@pytest.mark.parametrize(
    "value",
    [
        NAN,
        INF,
        -INF,
        [1.0, NAN],
        [[NAN]],
        {"x": {"y": INF}},
        (1, NAN),
        {NAN},
        Point(NAN),
        Number("nan"),
        [Number("inf")],
    ],
    ids=repr,
)
def test_refuses_numbers_without_a_json_form(jsonl: JsonlFormat, value: object) -> None:
    buffer = bytearray(b"before\n")
    with pytest.raises(
        ValueError, match=r"^`-?(nan|inf)` has no JSON form; return None or a string instead$|not JSON compliant"
    ):
        jsonl.encoder()({"first": 1, "a": value}, buffer)
    assert buffer == b"before\n"


def test_large_sums_are_not_infinite(jsonl: JsonlFormat) -> None:
    buffer = bytearray()
    record = {"a": [1e308, 1e308, -1e308], "b": [1.5, 2**5000], "c": [1.5, "x", None]}
    jsonl.encoder()(record, buffer)
    assert json.loads(buffer) == record


@pytest.mark.parametrize(
    "record",
    [{"a": object()}, {"a": lambda: 1}, {None: 1}, {True: 1}, {("a",): 1}, {"a": {None: 1}}, {"a": int}],
    ids=["object", "lambda", "none", "true", "tuple", "none-below", "class"],
)
def test_refuses_what_cannot_be_written(jsonl: JsonlFormat, record: dict) -> None:
    buffer = bytearray(b"before\n")
    with pytest.raises(TypeError):
        jsonl.encoder()(record, buffer)
    assert buffer == b"before\n"


@pytest.mark.parametrize("record", [{"a": "\ud800"}, {"\udc00": 1}])
def test_refuses_lone_surrogates(jsonl: JsonlFormat, record: dict) -> None:
    buffer = bytearray(b"before\n")
    with pytest.raises(ValueError):
        jsonl.encoder()(record, buffer)
    assert buffer == b"before\n"


def test_refuses_records_without_an_end(jsonl: JsonlFormat) -> None:
    record: dict = {}
    record["self"] = record
    buffer = bytearray()
    with pytest.raises(ValueError, match=r"^nested too deeply$"):
        jsonl.encoder()(record, buffer)
    assert buffer == b""


@pytest.mark.parametrize(("record", "found"), [([1], "list"), ("x", "str"), (None, "NoneType"), (Point(1), "Point")])
def test_writes_dicts_only(jsonl: JsonlFormat, record: object, found: str) -> None:
    with pytest.raises(TypeError, match=f"^expected a dict, found {found}$"):
        jsonl.encoder()(record, bytearray())


def test_a_stream_is_its_records(jsonl: JsonlFormat) -> None:
    stream = io.BytesIO(b"1\n2\n")
    assert list(jsonl.raw_records(stream)) == [b"1\n", b"2\n"]
