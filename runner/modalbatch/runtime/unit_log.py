"""What each unit of a split gave: one fixed-size row for each finished unit. Runs on: container.

It lies beside the part that is being written and survives the slot's death, as the spool files do.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

from modalbatch.records import Counts
from modalbatch.runtime.spool import append_to
from modalbatch.stores.local_file import unavailable

#: The ordinal behind the unit's last line, then the counts of the split so far.
_ROW = struct.Struct(f"<{1 + len(Counts.__slots__)}Q")


def unit_log_path(part_path: Path) -> Path:
    """Where the log of the attempt with this part lies."""
    return part_path.with_suffix(".units")


class UnitLog:
    """Appends a row when a unit is finished; continues what a slot left behind."""

    def __init__(self, path: Path, ordinal: int) -> None:
        """`ordinal`: of the checkpoint; rows of units that ended behind it are cut off, they are done again."""
        self._path = path
        data = path.read_bytes() if path.exists() else b""
        found = _ROW.iter_unpack(data[: len(data) // _ROW.size * _ROW.size])
        self._rows = [row for row in found if row[0] <= ordinal]
        if data:
            os.truncate(path, len(self._rows) * _ROW.size)

    def finish(self, index: int, ordinal: int, counts: Mapping[str, int]) -> None:
        """Unit number `index` of the split is finished. Order: before any line of the next one is settled.

        Raises:
            UnavailableError: the disk is full, or broken.
        """
        if index < len(self._rows):
            return  # finished by a slot that died later
        row = (ordinal, *counts.values())
        try:
            append_to(self._path, _ROW.pack(*row), len(self._rows) * _ROW.size)
        except OSError as error:
            raise unavailable(error, "write", self._path.parent) from error
        self._rows.append(row)

    @property
    def ends(self) -> list[int]:
        """The ordinal behind the last line of each finished unit."""
        return [row[0] for row in self._rows]

    def each(self) -> list[dict[str, int]]:
        """The counts of each finished unit."""
        before = [(0,) * (1 + len(Counts.__slots__)), *self._rows]
        return [
            {name: now - then for name, now, then in zip(Counts.__slots__, row[1:], last[1:], strict=True)}
            for last, row in zip(before, self._rows, strict=False)
        ]
