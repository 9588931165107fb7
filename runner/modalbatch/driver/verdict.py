"""How a run ended: status, exit code, numbers. Runs on: both. Owns `guarantees.md` section 6."""

from __future__ import annotations

from dataclasses import dataclass, field

from modalbatch.canonical import Json
from modalbatch.errors import FenceError, ModalbatchError, UnavailableError
from modalbatch.job import Job
from modalbatch.records import Counts, Manifest

#: A share of failed records is judged after so many, or at the end.
SHARE_AFTER_RECORDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of a run, as plain as JSON."""

    #: `done`, `failed`, `stopped` or `handed_over` (the next driver goes on).
    status: str
    exit_code: int
    #: Counts of this run.
    counts: Counts
    #: Counts of everything that is live.
    live: Counts
    manifest: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    error: ModalbatchError | None = None

    @classmethod
    def of(
        cls,
        job: Job,
        status: str,
        *,
        error: ModalbatchError | None,
        manifest: Manifest | None,
        counts: Counts,
        splits: dict[str, int],
    ) -> Verdict:
        """Put the numbers together; the exit code follows from them."""
        live = manifest.counts if manifest else Counts()
        if status == "done":
            judged = judge(job, live, is_final=True)
            code, error = judged.code, error or judged.error
        elif error is not None:
            code = error.exit_code
        elif status == "handed_over":
            code = UnavailableError.exit_code  # for who does not follow the next driver
        else:
            code = 130  # somebody asked to stop
        return cls(
            status=status,
            exit_code=code,
            counts=counts,
            live=live,
            manifest=manifest.number if manifest else 0,
            splits=splits,
            error=error,
        )

    def to_json(self) -> Json:
        """Plain data."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "counts": self.counts.to_json(),
            "live": self.live.to_json(),
            "manifest": self.manifest,
            "splits": self.splits,
            "error": self.error.to_json() if self.error else None,
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """Exit code and, where it is not 0, why."""

    code: int
    error: ModalbatchError | None


def judge(job: Job, counts: Counts, *, is_final: bool) -> Judged:
    """Whether so many dead and dropped records are a success: while it runs, and of what is live at the end."""
    limits, n_bad = job.on_error, counts.dead + counts.dropped
    if limits.max_failed is not None and n_bad > limits.max_failed:
        return Judged(5, _fence(n_bad, counts.in_, f"{limits.max_failed}"))
    share = limits.max_failed_share
    enough = is_final or counts.in_ >= SHARE_AFTER_RECORDS
    if share is not None and enough and counts.in_ and n_bad > share * counts.in_:
        return Judged(5, _fence(n_bad, counts.in_, f"{share:.4g} of all"))
    if not is_final:
        return Judged(0, None)
    if counts.in_ and counts.in_ == n_bad:
        return Judged(1, ModalbatchError(f"nothing succeeded: all {counts.in_} records failed"))
    has_limit = limits.max_failed is not None or share is not None
    return Judged(1 if counts.dead and not has_limit else 0, None)


def _fence(n_bad: int, n_records: int, limit: str) -> FenceError:
    return FenceError(
        f"{n_bad} of {n_records} records failed, more than on_error.max_failed: {limit}",
        hint="mend the handler, or raise on_error.max_failed; finished splits stay done",
    )
