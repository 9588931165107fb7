"""Expressions as text, laid out as `ruff format` would. Runs on: laptop.

Owns quoting and line breaks. Refuses what is not plain data: the only way for a string of a spec into an app is
`literal`, which writes it as an ASCII string literal, so neither its bytes nor the reader's Python version or
terminal (U+2028, bidi marks, surrogates) can change what the app says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from modalbatch.errors import InternalError

WIDTH = 120
INDENT = 4

#: An expression: code of ours on one line, or something that can be broken over lines.
Node: TypeAlias = "str | Group | Under | Chain"


@dataclass(frozen=True, slots=True)
class Group:
    """Items between brackets: a list, a dict, a call."""

    head: str
    #: What stands before each item (`key: `, `keyword=` or nothing), and the item.
    items: tuple[tuple[str, Node], ...]
    tail: str


@dataclass(frozen=True, slots=True)
class Under:
    """A path below a folder: `SPEC_DIR / "requirements.txt"`."""

    folder: str
    path: str


@dataclass(frozen=True, slots=True)
class Chain:
    """Two or more method calls on what the first call returns, one a line."""

    first: Group
    calls: tuple[Group, ...]


def literal(value: Any) -> Node:
    """Plain data as a Python literal; maps in the order of their keys.

    Raises:
        InternalError: not plain data, which `spec` should have refused.
    """
    if isinstance(value, str):
        return quote(value)
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int) and abs(value) < 10**4000:  # Python reads no literal of more than 4300 digits
        return repr(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value).replace("e+", "e")
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return mapping({key: value[key] for key in sorted(value)})
    if isinstance(value, (list, tuple)):
        head, tail = "()" if isinstance(value, tuple) and len(value) > 1 else "[]"
        return Group(head, tuple(("", literal(item)) for item in value), tail)
    raise InternalError(f"a value of type `{type(value).__name__}` cannot be written into an app")


def mapping(items: Mapping[str, Any]) -> Group:
    """A dict literal in the order given; values are plain data."""
    return Group("{", tuple((f"{quote(key)}: ", literal(value)) for key, value in items.items()), "}")


def nodes(items: Mapping[str, Node]) -> Group:
    """A dict literal in the order given; values are expressions."""
    return Group("{", tuple((f"{quote(key)}: ", value) for key, value in items.items()), "}")


def call(function: str, /, *args: Node, **kwargs: Node) -> Group:
    """A call with expressions as arguments."""
    positional = tuple(("", arg) for arg in args)
    return Group(f"{function}(", positional + tuple((f"{name}=", value) for name, value in kwargs.items()), ")")


def quote(text: str) -> str:
    """A string literal in ASCII; double quotes unless single ones save escapes."""
    body = text.encode("unicode_escape").decode("ascii")
    mark = "'" if body.count('"') > body.count("'") else '"'
    return mark + body.replace(mark, "\\" + mark) + mark


def flat(node: Node) -> str:
    """The expression on one line, however long."""
    if isinstance(node, str):
        return node
    if isinstance(node, Under):
        return f"{node.folder} / {quote(node.path)}"
    if isinstance(node, Chain):
        return flat(node.first) + "".join(flat(item) for item in node.calls)
    return node.head + ", ".join(before + flat(item) for before, item in node.items) + node.tail


def fit(node: Node, *, indent: int = 0, used: int = 0, after: int = 0) -> str:
    """The expression on one line where it fits, else one item a line.

    `indent` is that of the line it begins on, `used` the column it begins at, `after` what follows it on its last line.
    """
    text = flat(node)
    if isinstance(node, str) or used + len(text) + after <= WIDTH:
        return text
    margin = "\n" + " " * indent
    if isinstance(node, Under):
        return f"{node.folder}{margin}/ {quote(node.path)}"
    inner = indent + INDENT
    if isinstance(node, Chain):
        lines = [fit(item, indent=inner, used=inner) for item in (node.first, *node.calls)]
        return "(" + "".join(margin + " " * INDENT + line for line in lines) + margin + ")"
    if not node.items:
        return text
    lines = [before + fit(item, indent=inner, used=inner + len(before), after=1) for before, item in node.items]
    return node.head + "".join(f"{margin}{' ' * INDENT}{line}," for line in lines) + margin + node.tail


def assign(name: str, node: Node) -> str:
    """The expression as it stands after `name = `."""
    return fit(node, used=len(name) + 3)
