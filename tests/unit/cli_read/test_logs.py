"""What containers printed, as lines."""

from __future__ import annotations

from modalbatch.cli.logs import whole_lines


def test_lines_of_several_containers_do_not_tear_each_other() -> None:
    pieces = [("a", "working on"), ("b", "working on 1\n"), ("a", " 0\n\nno"), ("c", "x\ny"), ("a", "w\n"), ("b", "")]
    entries = [{"container": name, "source": "stdout", "text": text} for name, text in pieces]
    assert "".join(whole_lines(entries)) == "working on 1\nworking on 0\n\nx\nnow\ny\n"


def test_both_streams_of_a_container_are_apart() -> None:
    entries = [
        {"container": "a", "source": source, "text": text} for source, text in (("stdout", "1"), ("stderr", "2\n"))
    ]
    assert "".join(whole_lines(entries)) == "2\n1\n"
