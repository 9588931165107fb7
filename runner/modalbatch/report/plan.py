"""A plan as text. Runs on: laptop. Pure functions on what `driver.inspect.plan_facts` says; prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from modalbatch.canonical import Json
from modalbatch.report.text import count, quantity


class Line(NamedTuple):
    """One line of a plan: its symbol (`+`, `~`, `=`, `-`; a space where there is none) and the rest."""

    symbol: str
    text: str

    def __str__(self) -> str:
        return f"  {self.symbol} {self.text}" if self.symbol.strip() else self.text


def plan_lines(facts: Json, *, is_apply: bool = False) -> list[Line]:
    """What is new, changed, kept and removed, why, and what `apply` would do, or does (`is_apply`)."""
    found = f"{count(facts['inputs'], 'input')}, {count(facts['splits'], 'split')}, {quantity(facts['bytes'])}"
    stands = f"manifest {facts['manifest']}" if facts["manifest"] else "the sink is new"
    lines = [Line(" ", f"{facts['name']}: {found} · fingerprint {facts['fingerprint'][:8]} · {stands}")]
    groups = facts["groups"]
    lines += _line("+", groups["new"], "new", "")
    lines += _line("~", groups["input"], "changed", "input changed")
    lines += _line("~", groups["code"], "changed", _why_code(facts["changed_keys"]), names=False)
    lines += _line("~", groups["packed"], "changed", "processed together with an input that changed")
    lines += _line("~", groups["lost"], "lost", "their output is not in the sink any more")
    lines += _line("=", groups["kept"], "kept", "", names=False)
    gone = groups["removed"]
    if gone["inputs"]:
        what = "dropped" if facts["on_removed"] == "drop" else "kept"
        names = _names(gone["examples"], gone["inputs"])
        text = f"{gone['inputs']:,} removed: {names}; output {what} (source.on_removed: {facts['on_removed']})"
        lines.append(Line("-", text))
    lines.append(Line(" ", _outlook(facts, is_apply=is_apply)))
    return lines


def _line(symbol: str, group: Json, word: str, why: str, *, names: bool = True) -> list[Line]:
    if not group["splits"]:
        return []
    said = _names(group["examples"], group["inputs"]) if names else ""
    reason = f"{why} ({said})" if why and said else why or said
    size = f"{count(group['splits'], 'split')}, {quantity(group['bytes'])}"
    return [Line(symbol, f"{word}: {size}" + (f": {reason}" if reason else ""))]


def _names(examples: Sequence[str], n_inputs: int) -> str:
    more = n_inputs - len(examples)
    return ", ".join(examples) + (f" and {more:,} more" if more else "")


def _why_code(keys: Sequence[str]) -> str:
    """`handler changed (handlers.py)`, `env.MODE changed`, as exactly as the last run allows."""
    files = [key for key in keys if key.endswith(".py")]
    options = [key for key in keys if not key.endswith(".py")]
    words = []
    if files:
        words.append(f"handler changed ({_names(files[:5], len(files))})")
    if options:
        words.append(f"{_names(options[:5], len(options))} changed")
    return ", ".join(words) or "the handler, the image or an option that decides data changed"


def _outlook(facts: Json, *, is_apply: bool) -> str:
    if facts["is_done"]:
        return f"nothing to do: manifest {facts['manifest']} says all of it"
    todo, number = facts["todo"], facts["manifest"] + 1
    if not todo["splits"]:
        does = "publishing" if is_apply else "apply would publish"
        return f"{does} manifest {number}; nothing is to be processed"
    work = f"{count(todo['splits'], 'split')}, {quantity(todo['bytes'])}"
    if is_apply:
        return f"processing {work}, for manifest {number}"
    return f"apply would process {work}, and publish manifest {number}"
