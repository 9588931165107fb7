"""`python tests/sim/soak.py [SECONDS]`: schedules of all kinds for so long, with seeds that nobody has tried yet.

Prints how many, how fast, and for each that fails the line that repeats it. `make soak SECONDS=3600`.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "runner")]

from sim.schedule import KINDS, chunk  # noqa: E402

CHUNK = 50
#: Seconds between two lines of progress.
TELL_S = 60.0


def tasks(first: int, until_s: float) -> Iterator[tuple[str, int, int]]:
    """Kinds by turns, until the time is over."""
    while time.monotonic() < until_s:
        for kind in KINDS:
            yield kind, first, CHUNK
        first += CHUNK


def main(seconds: str = "3600") -> int:
    started = told = time.monotonic()
    # Seeds of this minute: the next soak has others.
    first = int(time.time()) // 60 * 1_000_000
    n_schedules = n_failed = 0
    print(f"seeds from {first}, for {seconds} s")
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        # A pool reads its tasks ahead without end: a few at a time.
        for wave in _waves(tasks(first, started + float(seconds)), 4 * (os.cpu_count() or 1)):
            for failed in pool.imap_unordered(chunk, wave):
                n_schedules += CHUNK
                n_failed += len(failed)
                for text in failed:
                    print(text, flush=True)
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                _tell(n_schedules, n_failed, told - started)
    _tell(n_schedules, n_failed, time.monotonic() - started)
    return min(n_failed, 1)


def _waves(items: Iterator[tuple[str, int, int]], size: int) -> Iterator[list[tuple[str, int, int]]]:
    wave = []
    for item in items:
        wave.append(item)
        if len(wave) == size:
            yield wave
            wave = []
    if wave:
        yield wave


def _tell(n_schedules: int, n_failed: int, elapsed_s: float) -> None:
    print(f"{n_schedules} schedules, {n_schedules / elapsed_s:.1f} a second, {n_failed} failed", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
