"""Quantities as people write them."""

from __future__ import annotations

import pytest

from modalbatch.units import format_bytes, format_seconds, parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("0", 0), ("512", 512), ("8MiB", 8 << 20), ("1.5 GB", 1_500_000_000), ("1kib", 1024), ("2TB", 2 * 10**12)],
)
def test_parse_bytes(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("1.5h", 5400.0), ("500ms", 0.5), ("2d", 172800.0)])
def test_parse_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "8 M", "1e3", "ten", "8MiBs", "١"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write for example `8MiB`, `500MB` or a number of bytes"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["", "10", "-1s", "1 year", "s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write for example `90s`, `10m` or `2h`"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 30, "5.0 GiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_format_bytes(n_bytes: int, text: str) -> None:
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (12.3, "12 s"), (185, "3m 05s"), (7800, "2h 10m"), (119.6, "2m 00s")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
