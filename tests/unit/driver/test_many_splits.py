"""So many splits that every listing has many pages."""

from __future__ import annotations

import os
from pathlib import Path

from modalbatch.names import RECEIPTS
from unit.driver.large_run import SqliteStore, runs

N_SPLITS = 10_000
KILL_AT = 6_000


def test_killed_at_60_percent_the_next_run_does_exactly_the_rest(tmp_path: Path) -> None:
    """F69 D: listings in pages of 1,000."""
    pid = os.fork()
    if not pid:
        try:
            list(runs(tmp_path, N_SPLITS, ["v1"], KILL_AT))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert sum(1 for _ in SqliteStore(tmp_path / "sink.db").list(RECEIPTS)) == KILL_AT
    (outcome,) = runs(tmp_path, N_SPLITS, ["v1"])
    assert outcome["exit_code"] == 0
    assert outcome["splits"] == {"done": N_SPLITS - KILL_AT, "kept": KILL_AT, "failed": 0}
    assert outcome["live"]["in"] == 10 * N_SPLITS
