"""What a person reads when something is wrong."""

from __future__ import annotations

import pytest

from modalbatch import errors
from modalbatch.errors import ModalbatchError, Where


def test_an_error_with_its_place() -> None:
    where = Where(path="specs/embed.yaml", line=6, column=1, text="sorce: s3://lake/docs/*.jsonl", width=5)
    error = ModalbatchError("unknown key `sorce`", where=where, hint="did you mean `source`?")
    assert error.render() == (
        "specs/embed.yaml:6:1: unknown key `sorce`\n"
        "  6 | sorce: s3://lake/docs/*.jsonl\n"
        "    | ^^^^^\n"
        "hint: did you mean `source`?"
    )


def test_an_error_without_a_place() -> None:
    assert ModalbatchError("no input").render() == "error: no input"
    assert ModalbatchError("bad", where=Where(path="a.yaml")).render() == "a.yaml: bad"


def test_an_error_as_data() -> None:
    error = ModalbatchError("bad", where=Where(path="a", line=3, column=2), hint="do it")
    assert error.to_json() == {"message": "bad", "path": "a", "line": 3, "column": 2, "hint": "do it"}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SpecError", 2),
        ("UsageError", 2),
        ("StateError", 2),
        ("FailedError", 1),
        ("FenceError", 5),
        ("UnavailableError", 75),
        ("BusyError", 75),
        ("InputChangedError", 75),
        ("InternalError", 3),
    ],
)
def test_exit_codes(name: str, code: int) -> None:
    assert getattr(errors, name)("x").exit_code == code
