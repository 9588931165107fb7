"""What libyaml complains about, in plain words. Runs on: laptop. Owns words only."""

from __future__ import annotations

from typing import Any

import yaml

from modalbatch.spec.mark import Mark

_COLON = "quote the value if the `:` is part of it, else check the indentation"
_INDENT = "check the indentation of this line and the one above"
#: What libyaml says → (what it means, what to type).
_YAML_WORDS = {
    "found character that cannot start any token": ("a value cannot begin with this character", "quote the value"),
    "mapping values are not allowed in this context": ("a `:` is not expected here", _COLON),
    "did not find expected key": ("a key was expected here", _INDENT),
    "did not find expected '-' indicator": ("a list item was expected here", _INDENT),
    "could not find expected ':'": ("a `:` was expected after the key", "write `key: value`"),
    "did not find expected ',' or ']'": ("a `,` or `]` was expected", "close the list"),
    "did not find expected ',' or '}'": ("a `,` or `}` was expected", "close the map"),
    "found unexpected end of stream": ("the file ends inside a quoted value", "close the quotes"),
    "did not find expected node content": ("a value was expected here", "quote it if it is text"),
    "did not find expected <document start>": ("the spec should end here", _INDENT),
    "found undefined tag handle": ("tags are not supported", "quote the value if it begins with `!`"),
    "found unknown escape character": ("an unknown escape in a double-quoted value", "use single quotes"),
    "control characters are not allowed": ("a control character is not allowed", "delete it"),
}  # fmt: skip


#: Where the place that libyaml noticed is later than the place that is wrong.
_AT_CONTEXT = ("could not find expected ':'", "found unexpected end of stream")


def explain_syntax(error: yaml.MarkedYAMLError, text: str) -> tuple[Mark, str, str | None]:
    """The place, message and hint of a syntax error."""
    problem = str(error.problem or error.context or "this is not YAML")
    lines = text.splitlines()
    at: Any = error.problem_mark or error.context_mark
    if error.context_mark and (problem in _AT_CONTEXT or at.line >= len(lines)):
        at = error.context_mark
    mark = Mark(at.line + 1, at.column + 1) if at else Mark(1, 1)
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    if line[mark.column - 1 : mark.column] == "\t":
        return mark, "a tab cannot indent", "use spaces"
    words, hint = _YAML_WORDS.get(problem, (f"this is not YAML: {problem}", None))
    return mark, words, hint
