"""What a pattern means."""

from __future__ import annotations

import pytest

from modalbatch.sources.glob import Pattern, has_wildcard, split_pattern


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("*.jsonl", ["a.jsonl", "a b.jsonl", "a\nb.jsonl", "-.jsonl"], ["a.json", "x/a.jsonl", ".a.jsonl", "_a.jsonl"]),
        ("*", ["a", "é"], ["", "_SUCCESS", ".git", "a/b", "a/"]),
        ("a?c", ["abc", "a.c"], ["ac", "a/c", "abbc"]),
        ("?", ["a"], ["_", ".", "/"]),
        ("[ab].txt", ["a.txt", "b.txt"], ["c.txt", "ab.txt"]),
        ("[!ab]", ["c"], ["a", "/", "_", "."]),
        ("[^ab]", ["c"], ["a"]),
        ("[]x]", ["]", "x"], ["[", "y"]),
        ("[a-c]", ["b"], ["d", "-"]),
        ("[*]", ["*"], ["a"]),
        ("x[", ["x["], ["x"]),
        ("x[a&&b]", ["xa", "x&", "xb"], ["x"]),
        ("x[\\]", ["x\\"], ["x]"]),
        ("a**b", ["ab", "axxb"], ["a/b"]),
        ("**", ["a", "a/b", "a/b/c"], ["_a", "a/_b", ".a/b", "a/.b/c", "a/"]),
        ("**/x", ["x", "a/x", "a/b/x"], ["_a/x", "a/.b/x", "ax", "y"]),
        ("a/**/x", ["a/x", "a/b/x", "a/b/c/x"], ["a/_b/x", "b/x", "ax"]),
        ("a/**", ["a/x", "a/b/x"], ["a", "a/_x"]),
        ("date=*/**/*.gz", ["date=1/a.gz", "date=1/h=2/a.gz"], ["date=1/_t/a.gz", "a.gz"]),
        ("a/", ["a/x", "a/b/x"], ["a", "a/_modalbatch/x", "a/.x"]),
        ("", ["a", "a/b"], ["_a", ""]),
        ("_raw/*", ["_raw/a"], ["_raw/_a"]),
        ("_*", ["_a", "_"], ["a", "._a"]),
        ("a.b+c(1)", ["a.b+c(1)"], ["aXb+c(1)"]),
    ],
)
def test_matches(pattern: str, names: list[str], others: list[str]) -> None:
    rule = Pattern(pattern)
    assert [name for name in names if not rule.matches(name)] == []
    assert [name for name in others if rule.matches(name)] == []
    for name in names:
        assert name.startswith(rule.prefix)
        folders = [name[: at + 1] for at, character in enumerate(name) if character == "/"]
        assert [folder for folder in folders if not rule.may_lie_below(folder)] == []


@pytest.mark.parametrize(
    ("pattern", "folder", "is_wanted"),
    [
        ("*.jsonl", "a/", False),
        ("*/x", "a/", True),
        ("*/x", "a/b/", False),
        ("**/x", "a/b/", True),
        ("**/x", ".git/", False),
        ("**", "a/_b/", False),
        ("a/**/b/*", "a/", True),
        ("a/**/b/*", "a/b/", True),
        ("a/**/b/*", "b/", False),
        ("a/", "a/b/c/", True),
    ],
)
def test_folders_that_can_hold_a_match(pattern: str, folder: str, is_wanted: bool) -> None:
    assert Pattern(pattern).may_lie_below(folder) is is_wanted


@pytest.mark.parametrize(
    ("uri", "folder", "rest"),
    [
        ("data/*.jsonl", "data/", "*.jsonl"),
        ("*.jsonl", "", "*.jsonl"),
        ("s3://b/p/d=*/x", "s3://b/p/", "d=*/x"),
        ("data/", "data/", ""),
        ("data/x.jsonl", "data/", "x.jsonl"),
        ("/abs/**/x", "/abs/", "**/x"),
    ],
)
def test_split(uri: str, folder: str, rest: str) -> None:
    assert split_pattern(uri) == (folder, rest)
    assert has_wildcard(uri) is (uri != "data/x.jsonl")
