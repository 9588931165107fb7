"""What is told of runs is never the truth: whatever becomes of it, the sink stays what it is and `apply` knows it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from memory_store import Memory, MemoryStore
from modalbatch.driver import runs
from modalbatch.names import RUNS
from modalbatch.sinks.objects import ObjectSink
from scripted_map import Inputs, commit, drive

#: What a disk or a person makes of an object.
DAMAGE = {
    "torn": lambda data, draw: data[: draw.randrange(len(data))],
    "empty": lambda data, draw: b"",
    "flipped": lambda data, draw: _flipped(data, draw.randrange(len(data))),
    "binary": lambda data, draw: draw.randbytes(64),
    "other-json": lambda data, draw: draw.choice([b"{}", b"[]", b"null", b'{"end": 3}', b'{"epoch": "x"}', b"7"]),
    "doubled": lambda data, draw: data + data,
    "gone": lambda data, draw: None,
}


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_story_changes_nothing(tmp_path: Path, damage: str, seed: int) -> None:
    """F06, F54, F55, F56: ledger, plan, end and epochs of earlier runs; what is done is still done."""
    draw = random.Random(f"{damage}{seed}")
    sink = ObjectSink(MemoryStore(Memory(), tmp_path))
    for run_id in ("first", "second"):
        assert drive(sink, Inputs(3), lambda text, nth: commit(sink, text), run_id=run_id)[0]["exit_code"] == 0
    before = sink.newest()
    names = [entry.name for entry in sink.store.list(RUNS)]
    assert any("ledger" in name for name in names)
    for name in names:
        if draw.random() < 0.7:
            data = DAMAGE[damage](sink.store.read(name), draw)
            if data is None:
                sink.store.delete([name])
            else:
                sink.store.replace(name, data)
    outcome, seen, _ = drive(sink, Inputs(4), lambda text, nth: commit(sink, text), run_id="third")
    assert (outcome["exit_code"], sum(seen.values())) == (0, 1)
    assert outcome["splits"] == {"done": 1, "failed": 0, "kept": 3}
    assert sink.newest().number == before.number + 1
    for run in runs.list_runs(sink):
        assert run["end"] is None or isinstance(run["end"], dict)
