"""The split rule in force: what the spec says, else what the sink keeps, else what a sample shows. Runs on: both.

A rule of the sink never changes: ids of splits hang on it. Refuses to measure what cannot be cut (compressed files).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

from modalbatch.canonical import Json
from modalbatch.driver.runs import Request
from modalbatch.job import Job
from modalbatch.job import Split as SplitRule
from modalbatch.records import Split, Unit
from modalbatch.sources import Source
from modalbatch.sources.files import AUTO_BYTES

#: A split of a measured rule takes about so long: short enough to lose, long enough to forget what a split costs.
TARGET_S = 120.0
#: A sample is this share of the input, within limits.
SAMPLE_SHARE = 1 / 64
MAX_SAMPLE_BYTES = 64 << 10
MIN_RULE_BYTES = 1 << 10
#: Splits for each slot, at least: nobody should wait for one that is late.
SPLITS_PER_SLOT = 2


def is_to_be_measured(job: Job, owner: Json | None) -> bool:
    """Whether a first run should look how slow the handler is before it cuts."""
    is_auto = job.source.split == SplitRule()
    return owner is None and is_auto and (bool(job.compute.gpu) or job.handler.batch_size is not None)


def cut_job(job: Job, owner: Json | None) -> Job:
    """The job with the rule that its sink keeps, for cutting only: the fingerprint is that of the spec."""
    kept = (owner or {}).get("split") or {}
    if job.source.split != SplitRule() or not kept.get("measured"):
        return job
    return replace(job, source=replace(job.source, split=SplitRule(bytes=kept["bytes"])))


def is_measured(job: Job, owner: Json | None) -> bool:
    """Whether the rule in force comes from a sample."""
    return cut_job(job, owner) is not job


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A piece of the input that is processed and thrown away."""

    unit: Unit
    total_bytes: int

    def split(self, request: Request, fingerprint: str) -> Split:
        """The piece, as what a worker processes and throws away."""
        return Split(
            units=(self.unit,),
            generation=0,
            fingerprint=fingerprint,
            run_id=request.run_id,
            roots=request.roots,
            is_sample=True,
        )


def sample_of(source: Source) -> Sample | None:
    """The first bytes of the first input that can be cut; None where there is none."""
    first, total = None, 0
    for found in source.inputs():
        total += found.size_bytes
    for unit in source.units():
        if not unit.whole and unit.end > unit.start:
            first = unit
            break
    if first is None:
        return None
    n_bytes = max(1, min(MAX_SAMPLE_BYTES, int(total * SAMPLE_SHARE), first.end - first.start))
    return Sample(unit=first._replace(end=first.start + n_bytes), total_bytes=total)


def rule_bytes(sample: Sample, seconds: float, n_slots: int) -> int:
    """Bytes of a split that takes about `TARGET_S`, and leaves `SPLITS_PER_SLOT` for each slot."""
    n_bytes = sample.unit.end - sample.unit.start
    by_time = n_bytes * TARGET_S / max(seconds, 1e-3)
    by_share = sample.total_bytes / (SPLITS_PER_SLOT * n_slots)
    wanted = max(MIN_RULE_BYTES, min(by_time, by_share, float(AUTO_BYTES)))
    return 1 << (int(wanted).bit_length() - 1)  # a power of two: small changes of a machine's mood change nothing


async def measure(map_splits: Callable[..., AsyncIterator[Any]], text: str) -> float | None:
    """Run a sample; the seconds that its records took. None when it did not come back whole."""

    async def feed() -> AsyncIterator[str]:
        yield text

    async for answer in map_splits(feed(), order_outputs=False, return_exceptions=True):
        if isinstance(answer, str):
            data: Json = json.loads(answer)
            if data["status"] == "measured":
                return float(data["seconds"])
    return None
