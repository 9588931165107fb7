"""Plans, progress and outcomes as lines of text. Runs on: laptop. Pure functions; prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modalbatch.canonical import Json

if TYPE_CHECKING:
    from modalbatch.records import Manifest

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def quantity(n_bytes: float) -> str:
    """`1.5 GiB`."""
    index = 0
    while n_bytes >= 1024 and index < len(_UNITS) - 1:
        n_bytes /= 1024
        index += 1
    return f"{n_bytes:.0f} {_UNITS[index]}" if index == 0 or n_bytes >= 100 else f"{n_bytes:.1f} {_UNITS[index]}"


def count(n: int, noun: str) -> str:
    """`1 split`, `7,957 records`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """`0.8 s`, `75 s`, `12 min`, `3.2 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def progress_line(progress: Json, rate: float | None, left_s: float | None) -> str:
    """`running: 3 of 8 splits, 4,096 records, 1,365 records/s, 2 dead, about 4 s left`."""
    splits, counts = progress["splits"], progress["counts"]
    of = f" of {splits['todo']:,}" if splits["is_total"] else ""
    words = [f"{progress['phase']}: {splits['done']:,}{of} splits", count(counts["in"], "record")]
    if rate:
        words.append(f"{rate:,.0f} records/s")
    words += [f"{n:,} {what}" for what, n in (("dead", counts["dead"]), ("failed splits", splits["failed"])) if n]
    if left_s is not None:
        words.append(f"about {duration(left_s)} left")
    return ", ".join(words)


def records_line(counts: Mapping[str, int]) -> str:
    """`7,957 records in: 7,950 out, 3 dead, 4 filtered, 0 dropped`."""
    out = f"{counts['out']:,} out"
    return (
        f"{count(counts['in'], 'record')} in: {out}, {counts['dead']:,} dead, "
        f"{counts['filtered']:,} filtered, {counts['dropped']:,} dropped"
    )


def outcome_lines(outcome: Json, manifest: Manifest | None, sink: str) -> list[str]:
    """How a run ended, in numbers."""
    counts, splits = outcome["counts"], outcome["splits"]
    rate = counts["in"] / outcome["seconds"] if outcome["seconds"] else 0
    lines = [
        f"{outcome['status']} in {duration(outcome['seconds'])}: {records_line(counts)} · {rate:,.0f} records/s",
        f"splits: {splits['done']:,} done, {splits['kept']:,} kept, {splits['failed']:,} failed",
    ]
    if outcome["status"] == "done" and manifest:
        lines.append(live_line(manifest, sink))
    return lines


def live_line(manifest: Manifest, sink: str) -> str:
    """`out/: 7,957 records live, 412 KiB, manifest 1`."""
    live = count(manifest.counts.out, "record")
    return f"{sink}: {live} live, {quantity(manifest.part_bytes)}, manifest {manifest.number}"


def next_lines(n_dead: int, sink: str) -> list[str]:
    """What to type next."""
    if not n_dead:
        return ["next: modalbatch ls · modalbatch cat · modalbatch verify"]
    dead = f"dead letters: {count(n_dead, 'record')} with error and position in {sink}_modalbatch/dead/"
    return [dead, "next: modalbatch errors · modalbatch ls · modalbatch verify"]
