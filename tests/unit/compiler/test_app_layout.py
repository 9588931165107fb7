"""Expressions as text: quoting, and line breaks as ruff makes them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from modalbatch.compiler.layout import Chain, Under, assign, call, literal, nodes, quote
from modalbatch.errors import InternalError


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("plain", '"plain"'),
        ("", '""'),
        ('say "hi"', "'say \"hi\"'"),
        ("it's", '"it\'s"'),
        ("'\"", '"\'\\""'),
        ("a\\b", '"a\\\\b"'),
        ("a\nb\r\0", '"a\\nb\\r\\x00"'),
        ("\u2028\u202e\ufeff", '"\\u2028\\u202e\\ufeff"'),
        ("\ud800", '"\\ud800"'),
        ("é漢😀", '"\\xe9\\u6f22\\U0001f600"'),
        ("{{ x }} {% y %} ${{ z }}", '"{{ x }} {% y %} ${{ z }}"'),
    ],
)
def test_strings_are_ascii_literals_of_themselves(text: str, source: str) -> None:
    assert quote(text) == source
    assert ast.literal_eval(source) == text


@pytest.mark.parametrize(
    ("value", "source"),
    [
        (None, "None"),
        (True, "True"),
        (-3, "-3"),
        (1e30, "1e30"),
        (1e-07, "1e-07"),
        ([], "[]"),
        ({}, "{}"),
        ((1, 2), "(1, 2)"),
        ((1,), "[1]"),
        ({"b": 1, "a": [None]}, '{"a": [None], "b": 1}'),
    ],
)
def test_plain_data(value: object, source: str) -> None:
    assert assign("x", literal(value)) == source


OTHER = {"nan": float("nan"), "inf": float("inf"), "huge": 10**4400, "key": {1: 2}, "set": {1, 2}, "bytes": b"x"}


@pytest.mark.parametrize("value", OTHER.values(), ids=OTHER)
def test_other_data_is_refused(value: object) -> None:
    with pytest.raises(InternalError, match="cannot be written into an app"):
        literal(value)


LONG = "x" * 60
CASES = {
    "fits": call("f", quote(LONG), a=quote("y")),
    "call": call("f", quote(LONG), a=quote(LONG), b=literal([1, 2])),
    "nested": call("f", literal([LONG, {"a": LONG, "b": [LONG, LONG]}]), a=literal({})),
    "path": call("f", Under("SPEC_DIR", LONG * 2), a=Under("SPEC_DIR", "short")),
    "only-path": call("f", call("str", Under("SPEC_DIR", LONG * 2))),
    "keyword-path": call("f", context_dir=Under("SPEC_DIR", LONG * 2)),
    "chain": Chain(call("modal.Image.debian_slim"), (call(".run", quote(LONG)), call(".env", literal({LONG: LONG})))),
    "short-chain": Chain(call("a.b"), (call(".c", quote("1")), call(".d"))),
    "mapping": nodes({LONG: call("f", quote(LONG)), "b": literal({"c": LONG, "d": {"e": LONG}})}),
    "exactly": literal("x" * 111),
    "endless": literal({"a": "x" * 300, "b": ["y" * 300], "c": {"z" * 300: None}}),
}  # fmt: skip


@pytest.mark.parametrize("width", range(100, 112))
def test_the_last_column_that_fits(width: int, tmp_path: Path) -> None:
    """Around the limit, ruff and we agree on which side of it a line is."""
    lines = [assign("name", literal(["x" * width, "y"])), assign("name", call("f", quote("x" * width)))]
    assert_formatted(tmp_path, "".join(f"name = {line}\n" for line in lines))


def test_ruff_changes_nothing(tmp_path: Path) -> None:
    assert_formatted(tmp_path, "".join(f"name = {assign('name', node)}\n" for node in CASES.values()))


def assert_formatted(folder: Path, source: str) -> None:
    path = folder / "app.py"
    path.write_text(source)
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", "--line-length", "120", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0, done.stderr
