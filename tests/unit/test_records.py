"""Names and JSON forms of what stands in a sink: exact, and refused when torn, altered or newer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from modalbatch.errors import StateError
from modalbatch.names import (
    dead_name,
    is_ours,
    manifest_name,
    parse_manifest_name,
    parse_receipt_name,
    part_name,
    receipt_name,
    segment_name,
)
from modalbatch.records import Counts, Manifest, Part, Receipt, Split, Unit, actual_uri, parse_receipt

SPLIT, FP, ATTEMPT = "0123456789abcdef01234567", "ab" * 32, "cd" * 16
UNIT = Unit("data/a.jsonl", "e" * 64, "10-1", 0, 10, False)
RECEIPT = Receipt(
    split=SPLIT,
    fingerprint=FP,
    generation=3,
    attempt=ATTEMPT,
    run_id="r",
    units=(UNIT,),
    parts=(Part("p", 1, "a" * 64, 1),),
    counts=Counts(in_=1, out_of=1, out=1),
)


def test_names() -> None:
    assert receipt_name(SPLIT, FP, 3) == f"_modalbatch/receipts/{SPLIT}.abababab.g3.json"
    assert receipt_name(SPLIT, FP, 3, ATTEMPT) == f"_modalbatch/receipts/{SPLIT}.abababab.g3/{ATTEMPT}.json"
    assert part_name(SPLIT, ATTEMPT, ".jsonl.gz") == f"part-{SPLIT}-cdcdcdcd.jsonl.gz"
    assert dead_name(SPLIT, ATTEMPT) == f"_modalbatch/dead/{SPLIT}-cdcdcdcd.jsonl"
    assert manifest_name(7) == "_modalbatch/manifest-000007.json"
    assert manifest_name(7, "f" * 64) == f"_modalbatch/manifest-000007-{'f' * 16}.json"
    assert segment_name(7, 2, "f" * 64) == f"_modalbatch/manifest-000007.0002-{'f' * 16}.jsonl"


def test_names_are_taken_apart_as_they_were_made() -> None:
    assert parse_receipt_name(receipt_name(SPLIT, FP, 12)) == (SPLIT, "abababab", 12, "")
    assert parse_receipt_name(receipt_name(SPLIT, FP, 12, ATTEMPT)) == (SPLIT, "abababab", 12, ATTEMPT)
    assert parse_manifest_name(manifest_name(1_234_567)) == (1_234_567, "")
    assert parse_manifest_name(segment_name(7, 0, "f" * 64)) is None


@pytest.mark.parametrize(
    "name",
    [
        "part-.jsonl",
        f"part-{SPLIT}-cdcdcdcd",
        f"part-{SPLIT}-cdcdcdcd.jsonl\n",
        f"part-{SPLIT.upper()}-cdcdcdcd.jsonl",
        f"part-{SPLIT}-cdcdcdcdc.jsonl",
        f"x/part-{SPLIT}-cdcdcdcd.jsonl",
        f"../part-{SPLIT}-cdcdcdcd.jsonl",
        f"part-{SPLIT}-cdcdcdcd.jsonl/../../x",
    ],
)
def test_what_is_nearly_our_name_is_not(name: str) -> None:
    assert not is_ours(name)


def test_the_id_of_a_unit_is_of_uri_identity_and_range_alone() -> None:
    assert UNIT.id == UNIT._replace(pin="other", whole=True).id
    changes = [{"uri": "b"}, {"identity": "x"}, {"start": 1}, {"end": 11}]
    assert len({UNIT.id, *(UNIT._replace(**change).id for change in changes)}) == 5
    assert UNIT.id == "d8aecfc537496740f61f0fd4"


def test_a_split_of_one_unit_has_its_id() -> None:
    one = Split(units=(UNIT,), generation=1, fingerprint=FP, run_id="r", roots={})
    two = Split(units=(UNIT, UNIT._replace(uri="b")), generation=1, fingerprint=FP, run_id="r", roots={})
    assert one.id == UNIT.id != two.id
    assert Split.from_text(two.to_text()) == two


def test_a_receipt_says_nothing_of_the_machine() -> None:
    data = json.loads(RECEIPT.to_bytes())
    assert data["inputs"] == [["data/a.jsonl", "e" * 64, 0, 10]]
    assert data["format"] == 1
    assert parse_receipt(RECEIPT.to_bytes()).to_bytes() == RECEIPT.to_bytes()


def test_a_receipt_says_what_each_input_gave() -> None:
    counts = Counts(in_=2, out_of=1, dead=1, out=1)
    receipt = replace(RECEIPT, units=(UNIT, UNIT._replace(uri="b")), unit_counts=(counts, Counts()))
    data = json.loads(receipt.to_bytes())
    assert [item[4] for item in data["inputs"]] == [{"in": 2, "out_of": 1, "dead": 1, "out": 1}, {}]
    assert parse_receipt(receipt.to_bytes()).unit_counts == (counts, Counts())
    assert RECEIPT.unit_counts == ()


def test_what_only_retried_receipts_have_is_left_out_of_others() -> None:
    assert {"replaces", "spread"}.isdisjoint(json.loads(RECEIPT.to_bytes()))
    receipt = replace(RECEIPT, replaces=receipt_name(SPLIT, FP, 2), spread=((1, 2), (0, 3)))
    assert json.loads(receipt.to_bytes())["spread"] == [[1, 2], [0, 3]]
    again = parse_receipt(receipt.to_bytes())
    assert (again.replaces, again.spread) == (receipt.replaces, receipt.spread)
    assert again.lying == ((1, 2), (0, 3))
    assert replace(RECEIPT, unit_counts=(Counts(out=4),)).lying == ((4,),)


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_torn_receipt(cut: int) -> None:
    with pytest.raises(StateError, match="a receipt is torn or altered"):
        parse_receipt(RECEIPT.to_bytes()[:cut])


@pytest.mark.parametrize("data", [b"[]", b"3", b"null"])
def test_what_is_no_object(data: bytes) -> None:
    with pytest.raises(StateError, match="a receipt is altered: not a JSON object"):
        parse_receipt(data)


@pytest.mark.parametrize("field", ["split", "attempt", "inputs", "parts", "counts"])
def test_a_receipt_without_a_field(field: str) -> None:
    data = RECEIPT.to_json()
    del data[field]
    with pytest.raises(StateError, match="not a receipt: "):
        Receipt.from_json(data)


def test_a_newer_format_is_refused_by_name() -> None:
    for data, read, what in (
        (RECEIPT.to_json(), Receipt.from_json, "receipt"),
        (json.loads(Manifest(number=1, run_id="r", accepted=()).to_bytes()), None, "manifest"),
    ):
        newer = data | {"format": 2}
        with pytest.raises(StateError) as caught:
            read(newer) if read else Manifest.from_bytes(json.dumps(newer).encode())
        assert caught.value.message == f"this {what} has format 2, this version reads up to 1"
        assert caught.value.hint == "pip install --upgrade modalbatch"


def test_counts() -> None:
    assert Counts(in_=4, out_of=1, dead=1, filtered=1, dropped=1).balances()
    assert not Counts(in_=1).balances()
    assert Counts(in_=1, out=2) + Counts(in_=3, blank=1) == Counts(in_=4, out=2, blank=1)
    assert Counts.from_json({**Counts(in_=3).to_json(), "of_a_later_version": 9}) == Counts(in_=3)


@pytest.mark.parametrize(
    ("uri", "roots", "actual"),
    [
        ("data/a", {"": "/srv/"}, "/srv/data/a"),
        ("data/a", {"": "/srv"}, "/srv/data/a"),
        ("data/a", {"": "/srv/", "data/": "/else/"}, "/else/a"),
        ("s3://b/a", {"": "/srv/"}, "s3://b/a"),
        ("/abs/a", {"": "/srv/"}, "/abs/a"),
        ("data/a", {}, "data/a"),
        ("data/a", {"data/a": "/staged/123"}, "/staged/123"),
    ],
)
def test_where_a_uri_is_read(uri: str, roots: dict[str, str], actual: str) -> None:
    assert actual_uri(uri, roots) == actual
