"""A page that is made: written anew, or with `--check` compared with what stands. No page is made here."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path


def write_or_check(page: Path, text: str) -> int:
    """Writes the page, or with `--check` says how it differs from `text`; the exit status."""
    if "--check" not in sys.argv[1:]:
        page.write_text(text, encoding="utf-8")
        return 0
    found = page.read_text(encoding="utf-8") if page.exists() else ""
    if found == text:
        return 0
    lines = found.splitlines(keepends=True), text.splitlines(keepends=True)
    sys.stderr.writelines(difflib.unified_diff(*lines, str(page), "generated"))
    sys.stderr.write(f"{page} is out of date: make format\n")
    return 1
