"""The mistakes of one spec, gathered with their places. Runs on: laptop.

Owns the order (by line), the cap and which nodes are already known to be wrong, so that no mistake is told twice.
"""

from __future__ import annotations

from dataclasses import replace

from modalbatch.errors import SpecError, SpecErrors, Where
from modalbatch.spec.document import Spec
from modalbatch.spec.mark import Trail

#: Further mistakes of one file are counted, not shown.
MAX_PROBLEMS = 50


class Problems:
    """Gathers mistakes, then raises them all."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.errors: list[SpecError] = list(spec.problems)
        self._bad: set[Trail] = set()

    def add(
        self,
        trail: Trail,
        message: str,
        hint: str | None = None,
        *,
        at_key: bool = False,
        is_secret: bool = False,
        is_bad: bool = True,
        where: Where | None = None,
    ) -> None:
        """Note a mistake at a node; `where` for one in another file. Secrets show no source line."""
        where = where or self.spec.where(trail, key=at_key)
        if is_secret:
            where = replace(where, text="")
        self.errors.append(SpecError(message, where=where, hint=hint))
        if is_bad:
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
        errors = sorted(
            self.errors, key=lambda error: (error.where.line, error.where.column) if error.where else (0, 0)
        )
        if len(errors) > MAX_PROBLEMS:
            left = len(errors) - MAX_PROBLEMS
            last = SpecError(f"{left} more mistakes are not shown", where=Where(path=self.spec.path))
            errors = [*errors[:MAX_PROBLEMS], last]
        raise SpecErrors(errors)


def label(trail: Trail) -> str:
    """`handler.batch_size`, `gpu[1]`."""
    text = ""
    for step in trail:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    # Keys are the user's text, too.
    from modalbatch.spec.secrecy import printable

    return printable(text)[:120]
