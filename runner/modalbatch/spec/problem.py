"""The mistakes of one spec, gathered with their places. Runs on: laptop.

Owns the order (by line), the cap and which nodes are already known to be wrong, so that no mistake is told twice.
"""

from __future__ import annotations

import re
from dataclasses import replace

from modalbatch.errors import SpecError, SpecErrors, Where
from modalbatch.spec.document import Spec
from modalbatch.spec.mark import Trail
from modalbatch.spec.secrecy import printable

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
#: Further mistakes of one file are counted, not shown.
MAX_PROBLEMS = 50


class Problems:
    """Gathers mistakes, then raises them all."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.errors: list[SpecError] = list(spec.problems)
        # What could not be read stands in the tree as a placeholder.
        unread = {(error.where.line, error.where.column) for error in spec.problems if error.where}
        self._bad: set[Trail] = {
            trail for trail, mark in spec.values.items() if trail and (mark.line, mark.column) in unread
        }

    def add(
        self,
        trail: Trail,
        message: str,
        hint: str | None = None,
        *,
        at_key: bool = False,
        is_secret: bool = False,
        spoils: Trail | None = None,
        where: Where | None = None,
    ) -> None:
        """Note a mistake at a node, which spoils that node, or another; `where` for one in another file."""
        where = where or self.spec.where(trail, key=at_key)
        if is_secret:
            where = replace(where, text="")
        self.errors.append(SpecError(message, where=where, hint=hint))
        self._bad.add(trail if spoils is None else spoils)

    def spoil(self, trail: Trail) -> None:
        """Note that a node is wrong for a reason that is told elsewhere."""
        self._bad.add(trail)

    def is_bad(self, trail: Trail) -> bool:
        """Whether a mistake was noted at the node or above it."""
        return any(trail[:n] in self._bad for n in range(1, len(trail) + 1))

    def is_clean(self, trail: Trail) -> bool:
        """Whether neither the node nor anything above or below it has a mistake."""
        return not self.is_bad(trail) and not any(bad[: len(trail)] == trail for bad in self._bad)

    def stop(self) -> None:
        """Raise what was gathered.

        Raises:
            SpecErrors: there is something.
        """
        if not self.errors:
            return
        errors = sorted(self.errors, key=self._order)
        if len(errors) > MAX_PROBLEMS:
            last = SpecError(f"{len(errors) - MAX_PROBLEMS} more mistakes", where=Where(path=self.spec.path))
            raise SpecErrors([*errors[:MAX_PROBLEMS], last], n_mistakes=len(errors))
        raise SpecErrors(errors)

    def _order(self, error: SpecError) -> tuple[bool, str, int, int]:
        """The spec's own mistakes by line, then those in other files."""
        where = error.where or Where(path=self.spec.path)
        return (where.path != self.spec.path, where.path, where.line, where.column)


def label(trail: Trail) -> str:
    """`handler.batch_size`, `gpu[1]`, `volumes[/models]`."""
    text = ""
    for step in trail:
        is_plain = isinstance(step, str) and _PLAIN_KEY.fullmatch(step)
        text += (f".{step}" if text else str(step)) if is_plain else f"[{step}]"
    return printable(text)[:120]
