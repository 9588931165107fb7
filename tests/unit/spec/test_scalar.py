"""YAML 1.2's plain scalars."""

import pytest

from modalbatch.spec.scalar import read_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("010", 10),
        ("0o17", 15),
        ("0x1f", 31),
        ("-7", -7),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("1:30", "1:30"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("=", "="),
        ("1_000", "1_000"),
        ("0o8", "0o8"),
        ("10m", "10m"),
        ("1.2.3", "1.2.3"),
        ("-" * 50, "-" * 50),
    ],
)
def test_a_plain_scalar_is_what_yaml_1_2_says(text, value):
    read = read_plain(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".inf", "`.inf` is not a finite number"),
        ("-.INF", "`-.INF` is not a finite number"),
        (".nan", "`.nan` is not a finite number"),
        ("1e999", "`1e999` is too large for a number"),
        ("9" * 6000, "a number of 6000 characters is too long"),
    ],
)
def test_numbers_that_json_cannot_hold_are_refused(text, message):
    with pytest.raises(ValueError) as caught:
        read_plain(text)
    assert str(caught.value) == message
