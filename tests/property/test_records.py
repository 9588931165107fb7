"""What crosses the wire comes back as it was, whatever text and numbers are in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalbatch.driver.runs import Request
from modalbatch.errors import StateError
from modalbatch.records import ALL_LINES, Counts, Manifest, Part, Receipt, Segment, Split, Unit, parse_receipt, total
from modalbatch.runtime.handler import Failure
from modalbatch.runtime.supervise import Suspects

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NUMBER = st.integers(0, 2**62)
LOW, HIGH = st.just(0) | NUMBER, st.just(ALL_LINES) | st.integers(1, ALL_LINES)
UNIT = st.builds(Unit, TEXT, TEXT, TEXT, NUMBER, NUMBER, st.booleans(), LOW, HIGH)
UNITS = st.lists(UNIT, min_size=1, max_size=4).map(tuple)
PARTS = st.lists(st.builds(Part, TEXT, NUMBER, TEXT, NUMBER), max_size=3).map(tuple)
COUNTS = st.builds(Counts, **dict.fromkeys(Counts.__slots__, NUMBER))
RANGES = st.lists(st.tuples(NUMBER, NUMBER, NUMBER), max_size=3)
FAILURES = st.builds(Failure, TEXT, st.dictionaries(TEXT, TEXT, max_size=2), NUMBER)
SUSPECTS = st.builds(
    Suspects,
    cuts=RANGES.map(lambda items: {(low, high): most for low, high, most in items}),
    deaths=st.dictionaries(NUMBER, NUMBER, max_size=3),
    poison=st.dictionaries(NUMBER, FAILURES, max_size=3),
    alone=st.sets(NUMBER, max_size=3),
    ooms=RANGES.map(lambda items: {(low, high): most for low, high, most in items}),
)
SPLITS = st.builds(
    Split,
    units=UNITS,
    generation=NUMBER,
    fingerprint=TEXT,
    run_id=TEXT,
    roots=st.dictionaries(TEXT, TEXT, max_size=3),
    retry=st.just({}) | st.fixed_dictionaries({"receipt": TEXT, "error": st.none() | TEXT, "before": NUMBER}),
    is_sample=st.booleans(),
    suspects=SUSPECTS.map(Suspects.to_json),
    carry=TEXT,
    most=NUMBER,
)
RECEIPTS = st.builds(
    Receipt,
    split=TEXT,
    fingerprint=TEXT,
    generation=NUMBER,
    attempt=TEXT,
    run_id=TEXT,
    units=UNITS,
    unit_counts=st.just(()),
    parts=PARTS,
    spread=st.lists(st.lists(NUMBER, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    replaces=TEXT,
    dead=PARTS,
    counts=COUNTS,
    seconds=st.floats(0, 1e6).map(lambda seconds: round(seconds, 3)),
    container=TEXT,
    gpu=st.none() | TEXT,
)
MANIFESTS = st.builds(
    Manifest,
    number=NUMBER,
    run_id=TEXT,
    accepted=st.lists(TEXT, max_size=3).map(tuple),
    segments=st.lists(st.builds(Segment, name=TEXT, sha256=TEXT, receipts=NUMBER), max_size=3).map(tuple),
    retired=st.lists(TEXT, max_size=3).map(tuple),
    counts=COUNTS,
    n_receipts=NUMBER,
    part_bytes=NUMBER,
    extra=st.dictionaries(TEXT, TEXT, max_size=2),
)


@given(SPLITS)
def test_splits(split: Split) -> None:
    again = Split.from_text(split.to_text())
    assert again == split
    assert again.id == split.id
    assert "\n" not in split.to_text()


@given(UNIT)
def test_a_piece_knows_the_unit_it_is_of(unit: Unit) -> None:
    whole = unit.piece(0, ALL_LINES)
    assert unit.stem == whole.stem == whole.id
    assert unit.is_piece == (unit.id != whole.id)


@given(RECEIPTS)
def test_receipts(receipt: Receipt) -> None:
    data = receipt.to_bytes()
    again = parse_receipt(data)
    assert again.to_bytes() == data
    assert (again.spread, again.replaces) == (receipt.spread, receipt.replaces)
    # Pins and ways of reading are of one machine and one plan; ids do not hang on them.
    assert [unit.id for unit in again.units] == [unit.id for unit in receipt.units]


@given(MANIFESTS)
def test_manifests(manifest: Manifest) -> None:
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


@given(st.lists(COUNTS, max_size=5))
def test_sums_of_balanced_counts_balance(counts: list[Counts]) -> None:
    balanced = [
        Counts(in_=c.out_of + c.dead + c.filtered + c.dropped, out_of=c.out_of, dead=c.dead, filtered=c.filtered,
               dropped=c.dropped)
        for c in counts
    ]  # fmt: skip
    assert total(balanced).balances()
    assert total(reversed(counts)) == total(counts)


@given(UNITS, UNITS)
def test_units_with_one_id_are_one_thing(first: tuple[Unit, ...], second: tuple[Unit, ...]) -> None:
    key = [(unit.uri, unit.identity, unit.start, unit.end, unit.low, unit.high) for unit in (*first, *second)]
    ids = [unit.id for unit in (*first, *second)]
    distinct = {tuple(item) for item in key if "\0" not in item[0] + item[1]}
    assert len({unit_id for unit_id, item in zip(ids, key, strict=True) if item in distinct}) == len(distinct)


@given(
    st.builds(
        Request,
        retry=st.none() | st.fixed_dictionaries({"error": st.none() | TEXT}),
        run_id=TEXT,
        roots=st.dictionaries(TEXT, TEXT, max_size=2),
        keep=st.booleans(),
        user=TEXT,
    )
)
def test_requests(request: Request) -> None:
    assert Request.from_text(json.dumps(json.loads(request.to_text()))) == request


@given(SUSPECTS)
def test_suspects(suspects: Suspects) -> None:
    assert Suspects.from_json(json.loads(json.dumps(suspects.to_json()))) == suspects
    assert suspects.most(0) == 0 or suspects.most(0) in suspects.ooms.values()
    assert suspects.most(1) <= 1


@given(RECEIPTS, st.integers(1, 2000))
def test_a_torn_receipt_is_none(receipt: Receipt, cut: int) -> None:
    """F06: whatever is left of it"""
    data = receipt.to_bytes()
    with pytest.raises(StateError):
        parse_receipt(data[: max(0, len(data) - cut)])


@given(MANIFESTS, st.integers(0), st.integers(1, 255))
def test_a_manifest_with_another_byte_is_none(manifest: Manifest, at: int, flip: int) -> None:
    """F55"""
    data = bytearray(manifest.to_bytes())
    data[at % len(data)] ^= flip
    with pytest.raises(StateError):
        Manifest.from_bytes(bytes(data))
    with pytest.raises(StateError):
        Manifest.from_bytes(bytes(manifest.to_bytes()[: at % len(data)]))


@given(
    st.binary(max_size=60) | st.recursive(st.none() | TEXT | NUMBER, lambda x: st.dictionaries(TEXT, x) | st.lists(x))
)
def test_anything_else_is_no_receipt_and_no_manifest(found: object) -> None:
    data = found if isinstance(found, bytes) else json.dumps(found).encode()
    for parse in (parse_receipt, Manifest.from_bytes):
        with pytest.raises(StateError):
            parse(data)
