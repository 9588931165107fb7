"""Places in a spec's text. Runs on: laptop. Owns the caret and what of a line is shown; refuses lines with secrets."""

from __future__ import annotations

from dataclasses import dataclass

from modalbatch.errors import Where
from modalbatch.spec import secrecy

#: Keys and indexes from the root to a node.
Trail = tuple[str | int, ...]

_MAX_LINE = 160


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a node stands: 1-based line and column, characters for the caret, and its text as written."""

    line: int
    column: int
    width: int = 1
    #: A scalar as written, without quotes; empty for maps and lists.
    raw: str = ""


def place(path: str, mark: Mark, lines: tuple[str, ...]) -> Where:
    """A mark as a `Where`, with the source line unless it may hold a secret or is too long to help."""
    text = lines[mark.line - 1][: 8 * _MAX_LINE] if 0 < mark.line <= len(lines) else ""
    if secrecy.hides_line(text) or mark.column > _MAX_LINE:
        text = ""
    shown = secrecy.printable(text)
    cut = shown[:_MAX_LINE] + "…" if len(shown) > _MAX_LINE else shown
    width = max(1, min(mark.width, len(cut) - mark.column + 1))
    return Where(path=path, line=mark.line, column=mark.column, text=cut, width=width)
