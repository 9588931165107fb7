"""URI patterns. Runs on: both.

Owns what `*`, `?`, `[…]` and `**` mean: `*` stays within a segment, `**` is any number of segments, a pattern that ends
with `/` means everything below. No wildcard matches the first character of a segment that begins with `_` or `.`
(control files); a pattern that writes that character matches it.
"""

from __future__ import annotations

import re

_WILD = re.compile(r"[*?\[]")
#: A segment that no wildcard may begin.
_VISIBLE = r"(?![_.])"


def has_wildcard(text: str) -> bool:
    """Whether a URI is a pattern: it names a folder (`…/`) or has a wildcard."""
    return text.endswith("/") or bool(_WILD.search(text))


def split_pattern(text: str) -> tuple[str, str]:
    """A URI as the literal folder it begins with (empty or ending in `/`) and the rest."""
    wild = _WILD.search(text)
    literal = text[: wild.start()] if wild else text
    folder = literal[: literal.rfind("/") + 1]
    return folder, text[len(folder) :]


class Pattern:
    """A pattern relative to a folder, over names with `/` between segments."""

    def __init__(self, text: str) -> None:
        self.text = text + "**" if text.endswith("/") or not text else text
        segments = self.text.split("/")
        #: None stands for `**`.
        self._segments = [None if segment == "**" else re.compile(_segment(segment), re.DOTALL) for segment in segments]
        self._matches = re.compile(_join(segments), re.DOTALL).fullmatch
        wild = _WILD.search(self.text)
        #: What every name that matches begins with.
        self.prefix = self.text[: wild.start()] if wild else self.text

    def matches(self, name: str) -> bool:
        """Whether a name matches as a whole."""
        return self._matches(name) is not None

    def may_lie_below(self, folder: str) -> bool:
        """Whether a name below `folder` (`a/b/`) can match."""
        states = self._closure({0})
        for segment in folder.rstrip("/").split("/"):
            after: set[int] = set()
            for index in states:
                if index == len(self._segments):
                    continue
                rule = self._segments[index]
                if rule is None and not segment.startswith(("_", ".")):
                    after.add(index)
                elif rule is not None and rule.fullmatch(segment):
                    after.add(index + 1)
            states = self._closure(after)
        return any(index < len(self._segments) for index in states)

    def _closure(self, states: set[int]) -> set[int]:
        """States reachable without a segment: `**` may stand for none, except at the end."""
        reached = set(states)
        for index in sorted(states):
            position = index
            while position < len(self._segments) - 1 and self._segments[position] is None:
                position += 1
                reached.add(position)
        return reached


def _join(segments: list[str]) -> str:
    any_segment = rf"{_VISIBLE}[^/]+"
    out = ""
    for index, segment in enumerate(segments):
        is_last = index == len(segments) - 1
        if segment == "**":
            out += any_segment + rf"(?:/{any_segment})*" if is_last else rf"(?:{any_segment}/)*"
        else:
            out += _segment(segment) + ("" if is_last else "/")
    return out


def _segment(text: str) -> str:
    """One segment as a regular expression."""
    out = _VISIBLE if text[:1] in ("*", "?", "[") else ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "*":
            out += "[^/]*"
        elif character == "?":
            out += "[^/]"
        elif character == "[":
            # A `]` right after the bracket or its `!` is a member, as in a shell.
            close = text.find("]", position + 2 if text[position : position + 1] in ("!", "^") else position + 1)
            if close < 0:
                out += re.escape(character)
                continue
            out += _characters(text[position:close])
            position = close + 1
        else:
            out += re.escape(character)
    # An empty name is no name: `*` alone needs a character.
    return f"(?=[^/]){out}" if text else out


def _characters(inside: str) -> str:
    negated = inside[:1] in ("!", "^")
    members = (inside[1:] if negated else inside).replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^")
    members = members.replace("]", r"\]").replace("&&", r"&\&").replace("||", r"|\|").replace("~~", r"~\~")
    return f"(?!/)[{'^' if negated else ''}{members}]"
