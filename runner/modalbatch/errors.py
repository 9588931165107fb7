"""The error tree. Runs on: both. Owns what a person reads when something is wrong; prints nothing itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A place in a file: 1-based line and column, with the source line for the caret."""

    path: str
    line: int = 0
    column: int = 0
    #: The line's text as written; empty when it may hold a secret or is not known.
    text: str = ""
    #: Characters under the caret.
    width: int = 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}" if self.line else self.path


class ModalbatchError(Exception):
    """A message for a person: what was expected, what was found, and one thing to type."""

    #: Process exit code, `guarantees.md` section 6.
    exit_code = 2

    def __init__(self, message: str, *, where: Where | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def render(self) -> str:
        """The error as text: `place: message`, the source line with a caret, one hint."""
        lines = [f"{self.where}: {self.message}" if self.where else f"error: {self.message}"]
        if self.where and self.where.line and self.where.text:
            number = str(self.where.line)
            lines.append(f"  {number} | {self.where.text}")
            lines.append(f"  {' ' * len(number)} | {' ' * (self.where.column - 1)}{'^' * max(1, self.where.width)}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The error as plain data for `--json`."""
        where = self.where
        return {
            "message": self.message,
            "path": where.path if where else None,
            "line": where.line if where and where.line else None,
            "column": where.column if where and where.line else None,
            "hint": self.hint,
        }


class SpecError(ModalbatchError):
    """One mistake in a spec, at its place."""


class SpecErrors(ModalbatchError):
    """All mistakes of one or more specs, in the order of the files."""

    def __init__(self, errors: list[SpecError], *, n_files: int = 1, n_mistakes: int | None = None) -> None:
        super().__init__("\n".join(error.render() for error in errors))
        self.errors = errors
        #: Those beyond a file's cap included.
        self.n_mistakes = len(errors) if n_mistakes is None else n_mistakes
        #: How many specs were looked at.
        self.n_files = n_files
        #: A last line for people, when several files were looked at.
        self.summary = ""

    def render(self) -> str:
        """Every error, one after the other."""
        return f"{self.message}\n{self.summary}" if self.summary else self.message


class UsageError(ModalbatchError):
    """The command line asks for something that cannot be, or a confirmation is missing."""


class StateError(ModalbatchError):
    """The sink holds something that this command must not continue from (foreign data, another job, another format)."""


class UnavailableError(ModalbatchError):
    """A store, an engine or the network cannot be reached now: nothing is lost, `apply` again continues."""

    exit_code = 75


class BusyError(UnavailableError):
    """Another run of the same job is active."""


class FailedError(ModalbatchError):
    """The run ended without a manifest, or what it published is not what was asked for."""

    exit_code = 1


class FenceError(ModalbatchError):
    """A limit of the spec stopped the run; receipts stay."""

    exit_code = 5


class InputChangedError(ModalbatchError):
    """An input is not what the plan saw: its split fails, the next `apply` plans again."""

    exit_code = 75


class CorruptInputError(ModalbatchError):
    """The bytes of an input are not what its name says: a broken archive, or a compression nobody named."""

    exit_code = 1


class NotFoundError(ModalbatchError):
    """An object that must exist does not."""


class InternalError(ModalbatchError):
    """A bug of modalbatch."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """What somebody else's error says, for a message of ours: one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
