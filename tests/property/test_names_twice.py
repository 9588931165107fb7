"""A name that stands twice in an object, at any depth and in any writing: found exactly, whatever else has colons."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from modalbatch.formats.jsonl import JsonlFormat, nesting

#: Few names, so that they meet; texts with what makes counting hard.
_NAMES = st.sampled_from(["a", "b", ":", "", "a:", "\\", '"', "\\u003a", "é", "\u2028"])
_TEXTS = st.sampled_from(["", ":", '":', '\\":', "::", "{}", '{"a":1}', "\\", "http://x:80/"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=5
)
_SPACE = st.sampled_from(["", "", " ", "\t", "\r"])


class Pairs(list):
    """An object as its pairs, some of which may have one name."""


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(_NAMES, inner), max_size=3).map(Pairs),
    max_leaves=8,
)
_OBJECTS = st.lists(st.tuples(_NAMES, _VALUES), max_size=4).map(Pairs)


@st.composite
def written(draw: Any, value: Any) -> str:
    """A value as JSON: with white space, and with any escapes."""
    space = draw(_SPACE)
    if isinstance(value, Pairs):
        pairs = [f"{draw(_text(name))}{space}:{space}{draw(written(item))}" for name, item in value]
        return space + "{" + f"{space},".join(pairs) + space + "}" + space
    if isinstance(value, list):
        return "[" + ",".join(draw(written(item)) for item in value) + space + "]"
    return draw(_text(value)) if isinstance(value, str) else json.dumps(value)


@st.composite
def _text(draw: Any, text: str) -> str:
    if draw(st.booleans()):
        return json.dumps(text, ensure_ascii=draw(st.booleans()))
    form = draw(st.sampled_from(["\\u%04x", "\\u%04X"]))
    return '"' + "".join(form % ord(char) if ord(char) < 0x10000 else json.dumps(char)[1:-1] for char in text) + '"'


def has_twice(value: Any) -> bool:
    if isinstance(value, Pairs):
        names = [name for name, _ in value]
        return len(set(names)) < len(names) or any(has_twice(item) for _, item in value)
    return isinstance(value, list) and any(map(has_twice, value))


def plain(value: Any) -> Any:
    if isinstance(value, Pairs):
        return {name: plain(item) for name, item in value}
    return [plain(item) for item in value] if isinstance(value, list) else value


@given(_OBJECTS.flatmap(lambda value: st.tuples(st.just(value), written(value))))
@example((Pairs([("a", ":"), ("a", ":")]), r'{"a":"\u003a","a":"\u003A"}'))
@example((Pairs([("a", Pairs([(":", 1), (":", 2)]))]), '{"a":{":":1,":" :2}}'))
def test_a_name_that_stands_twice_is_found(found: tuple[Pairs, str]) -> None:
    """bad input 75"""
    value, text = found
    line = text.encode()
    for form in (JsonlFormat(use_msgspec=True), JsonlFormat(use_msgspec=False)):
        try:
            record = form.decoder()(line)
        except ValueError as error:
            assert has_twice(value), error
            assert "stands twice in one object" in str(error)
        else:
            assert not has_twice(value)
            assert record == plain(value)


@given(_OBJECTS.flatmap(lambda value: st.tuples(st.just(value), written(value))))
def test_the_hot_path_doubts_every_such_line(found: tuple[Pairs, str]) -> None:
    """bad input 75: it may doubt others too, which are looked at again."""
    value, text = found
    line, bare = text.encode(), JsonlFormat(use_msgspec=True).bare()
    record = bare.loads(line)
    n_marks = line.count(bare.mark)
    is_looked_at = len(record) != n_marks and bare.is_doubtful(line, record, n_marks)
    assert is_looked_at or not has_twice(value)


@given(_VALUES.flatmap(written))
def test_nesting_is_never_too_small(text: str) -> None:
    """bad input 77"""

    def depth(value: Any) -> int:
        items = [item for _, item in value] if isinstance(value, Pairs) else value
        return 1 + max(map(depth, items), default=0) if isinstance(value, list) else 0

    true_depth = depth(json.loads(text, object_pairs_hook=Pairs))
    assert nesting(text.encode()) >= true_depth
    many = f"[{text},{'[],' * 300}{json.dumps('[[[' * 99)}]"
    assert nesting(many.encode()) == max(2, true_depth + 1)
