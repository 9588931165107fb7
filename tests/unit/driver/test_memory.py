"""Memory of the driver: at most 250 bytes a split, on top of buffers that are full after twenty thousand.

MODALBATCH_SPLITS=1000000 pytest tests/unit/driver/test_memory.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("large_run.py")
FEW = 22_000
MANY = int(os.environ.get("MODALBATCH_SPLITS", "32000"))
BYTES_PER_SPLIT = 250
#: What an allocator and two page caches may differ by between two processes.
NOISE_BYTES = 6 << 20


def test_memory_a_split() -> None:
    """A first run, and one with nothing to do."""
    versions = ["v1", "v1"]
    commands = [[sys.executable, str(SCRIPT), str(n), *versions] for n in (FEW, MANY)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    few, many = ([json.loads(line) for line in process.communicate()[0].splitlines()] for process in running)
    for version, small, large in zip(versions, few, many, strict=True):
        assert (small[0], large[0]) == (0, 0)
        grown = (large[2] - small[2]) * 1024
        assert grown <= BYTES_PER_SPLIT * (MANY - FEW) + NOISE_BYTES, (
            f"{version}: {grown / (MANY - FEW):.0f} bytes a split"
        )
        assert large[1] == 10 * MANY
