"""Which failures count as the same."""

from __future__ import annotations

import pytest

from modalbatch.report.cluster import MOST_KINDS, clusters
from modalbatch.sinks.letter import failing, normalise


def letter(
    message: str = "bad", *, cause: str = "raised", kind: str = "ValueError", frame: str = "work", **more
) -> dict:
    traceback = f'Traceback (most recent call last):\n  File "/x/handlers.py", line 7, in {frame}\n{kind}: {message}\n'
    return {
        "id": "s-0",
        "uri": "data/a.jsonl",
        "position": {"offset": 0, "ordinal": 0},
        "cause": cause,
        "error": {"type": kind, "message": message, "traceback": traceback},
        "attempts": 1,
        **more,
    }


@pytest.mark.parametrize(
    ("message", "same"),
    [
        ("could not convert string to float: 'abc'", "could not convert string to float: 'it\\'s'"),
        ("record 12 of 4,096 at 0.5", "record 7 of 1 at 12"),
        ("no user 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "no user 11111111-2222-3333-4444-555555555555"),
        ("<Reply object at 0x7f00aa>", "<Reply object at 0x1>"),
        ("blob 9e107d9d372bb682 is gone", "blob e4d909c290d0fb1c is gone"),
        ("two\n  lines 1", "two lines 2"),
    ],
)
def test_what_differs_from_record_to_record_does_not_count(message, same):
    assert normalise(message) == normalise(same)
    assert failing(letter(message)).signature == failing(letter(same)).signature


@pytest.mark.parametrize("message", ["feedface is a word of hex digits only", "a decade of facades", "über alles"])
def test_words_are_no_ids(message):
    assert normalise(message) == message


def test_cause_type_place_and_message_tell_kinds_apart():
    letters = [
        letter(),
        letter("worse"),
        letter(kind="KeyError"),
        letter(frame="other"),
        letter(cause="rejected"),
    ]
    kinds, n_others = clusters([*letters, letter(uri="data/b.jsonl"), letter()])
    assert (len(kinds), n_others) == (5, 0)
    assert (kinds[0].n, len(kinds[0].uris), kinds[0].failing.place, kinds[0].failing.message) == (
        3,
        2,
        "handlers.py in work",
        "bad",
    )
    assert kinds[0].sample == letters[0]
    assert [kind.n for kind in kinds[1:]] == [1] * 4


def test_a_line_that_moves_does_not_make_another_kind():
    moved = letter()
    moved["error"]["traceback"] = moved["error"]["traceback"].replace("line 7", "line 70").replace("/x/", "/y/z/")
    assert failing(moved).signature == failing(letter()).signature


def test_there_is_a_limit_of_kinds_and_nothing_is_lost_beyond_it():
    words = ("".join(chr(ord("g") + int(digit)) for digit in str(n)) for n in range(MOST_KINDS + 7))
    kinds, n_others = clusters(letter(word) for word in words)
    assert (len(kinds), n_others) == (MOST_KINDS, 7)


def test_letters_without_a_traceback_or_a_record_are_clustered():
    undecodable = letter("not JSON", cause="undecodable", kind="undecodable")
    undecodable["error"]["traceback"] = ""
    (kind,), _ = clusters([undecodable])
    assert (kind.failing.place, kind.to_json()["inputs"]) == ("", 1)
