"""A log of units that is torn anywhere, by a slot that died anywhere, goes on as if it never was."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from modalbatch.records import Counts
from modalbatch.runtime.unit_log import UnitLog

#: Records of each unit: what they became.
UNITS = st.lists(st.lists(st.sampled_from(["out_of", "dead", "filtered", "dropped"]), max_size=4), max_size=6)


def run(path: Path, units: list[list[str]], checkpoint: int, stop_at: int) -> list[dict[str, int]]:
    """Finish the units from the checkpoint's record on, up to a record; what each unit gave."""
    log, ordinal = UnitLog(path, checkpoint), 0
    counts = dict.fromkeys(Counts.__slots__, 0)
    for index, unit in enumerate(units):
        for what in unit:
            counts["in_"] += 1
            counts[what] += 1
            ordinal += 1
        if ordinal > stop_at:
            break
        log.finish(index, ordinal, counts)
    return log.each()


@given(units=UNITS, dies_at=st.integers(0, 24), behind=st.integers(0, 24), torn=st.integers(0, 200), junk=st.binary())
@example(units=[["dead"], [], ["out_of"]], dies_at=2, behind=1, torn=0, junk=b"x")
def test_a_torn_log_goes_on(units, dies_at: int, behind: int, torn: int, junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        expected = run(whole, units, 0, 100)
        assert [sum(item[name] for name in ("out_of", "dead", "filtered", "dropped")) for item in expected] == [
            len(unit) for unit in units
        ]
        run(cut, units, 0, dies_at)
        # Where nothing was finished there is no file.
        for path in (whole, cut):
            path.touch()
        size = cut.stat().st_size
        with cut.open("r+b") as file:
            file.truncate(max(0, size - torn))
        # The checkpoint is never ahead of the log: what it covers was written before it.
        n_rows = cut.stat().st_size // 64
        known = [sum(map(len, units[: i + 1])) for i in range(n_rows)]
        if junk and cut.stat().st_size % 64 == 0:
            with cut.open("ab") as file:
                file.write(junk[:63])
        checkpoint = max([0, *(ordinal for ordinal in known if ordinal <= behind)])
        assert run(cut, units, checkpoint, 100) == expected
        assert cut.read_bytes() == whole.read_bytes()
