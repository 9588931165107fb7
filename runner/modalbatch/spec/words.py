"""Words near a mistyped word. Runs on: laptop. Owns `did you mean`; refuses far guesses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None."""
    folded = {name.lower(): name for name in sorted(known, reverse=True)}
    found = difflib.get_close_matches(word[:80].lower(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def meant(word: str, known: Iterable[str]) -> str | None:
    """The hint `did you mean …?`, or None."""
    near = closest(word, known)
    return f"did you mean `{near}`?" if near else None


def listed(words: Iterable[str], last: str = "or") -> str:
    """`a`, `b` or `c`, in backticks."""
    quoted = [f"`{word}`" for word in words]
    return f"{', '.join(quoted[:-1])} {last} {quoted[-1]}" if len(quoted) > 1 else "".join(quoted)
