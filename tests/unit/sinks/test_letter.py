"""Which dead letters a retry means."""

from __future__ import annotations

import pytest

from modalbatch.sinks.letter import failing, has_record, is_meant

RAISED = {
    "id": "s-0",
    "cause": "raised",
    "error": {"type": "ValueError", "message": "7 is bad", "traceback": ""},
    "attempts": 1,
    "record": {"n": 7},
}
SIGNATURE = failing(RAISED).signature


@pytest.mark.parametrize(
    ("letter", "is_whole"),
    [
        (RAISED, True),
        ({**RAISED, "record": {}}, True),
        ({"cause": "undecodable", "raw_base64": "eA=="}, True),
        ({"cause": "undecodable", "records": "unknown"}, False),
        ({"cause": "oversize", "raw_base64": "eA=="}, False),
    ],
)
def test_whether_the_whole_record_is_there(letter, is_whole) -> None:
    assert has_record(letter) == is_whole


@pytest.mark.parametrize(
    ("retried", "error", "is_wanted"),
    [
        (None, None, True),
        (None, SIGNATURE, True),
        (None, "00000000", False),
        (2, None, True),
        (3, None, False),
        (3, SIGNATURE, False),
        (4, None, False),
    ],
)
def test_by_kind_and_by_the_last_retry(retried, error, is_wanted) -> None:
    letter = RAISED if retried is None else {**RAISED, "retried": retried}
    assert is_meant(letter, {"error": error, "before": 3}) == is_wanted


def test_the_numbers_of_a_message_make_no_other_kind() -> None:
    other = {**RAISED, "error": {**RAISED["error"], "message": "8 is bad"}}
    assert failing(other).signature == SIGNATURE
