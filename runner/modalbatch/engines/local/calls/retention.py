"""How long things are kept. Runs on: laptop.

Owns the age at which results of spawned calls expire, as on Modal, and at which logs of apps are deleted.
"""

from __future__ import annotations

from pathlib import Path

from modalbatch.engines.local.prune import KEPT_S
from modalbatch.engines.local.schedules.clock import Clock
from modalbatch.engines.local.storage.blob import BlobServer
from modalbatch.engines.local.store import Store
from modalbatch.engines.local.wire import proto

_DAY_S = 86_400.0
_KEEP_RESULTS_S = 7 * _DAY_S


class Retention:
    """Deletes what has been kept long enough."""

    def __init__(self, store: Store, blobs: BlobServer, log_folder: Path, clock: Clock) -> None:
        self._store = store
        self._blobs = blobs
        self._log_folder = log_folder
        self._clock = clock

    def begin(self) -> None:
        """Deletes now, and once a day from now on."""
        self._sweep()
        self._clock.call_later(_DAY_S, self.begin)

    def is_expired(self, created_at: float) -> bool:
        """Whether a result of that unix time is no longer to be had, deleted or not."""
        return created_at < self._clock.now() - _KEEP_RESULTS_S

    def _sweep(self) -> None:
        for data in self._store.drop_outputs(self._clock.now() - _KEEP_RESULTS_S):
            blob_id = proto.FunctionGetOutputsItem.FromString(data).result.data_blob_id
            if blob_id:
                self._store.drop(blob_id)
                self._blobs.path(blob_id).unlink(missing_ok=True)
        oldest = self._clock.now() - KEPT_S
        for path in self._log_folder.glob("ap-*.log"):
            if path.stat().st_mtime < oldest:
                path.unlink()
