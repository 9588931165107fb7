"""Volumes by id: their names, versions and folders. Runs on: laptop. Files are `volume.py`'s, views `view.py`'s."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modalbatch.engines.local.storage.volume import existing
from modalbatch.engines.local.store import Store
from modalbatch.engines.local.wire import Message, already_exists, creation, message, not_found, proto


class Volumes:
    """The volumes of a home."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder = folder
        self._store = store

    def add(self, volume_id: str, *, environment: str, name: str, version: int) -> None:
        """A new volume with its folder; one without a name lives as long as the engine."""
        folder = f"{environment}/{name}" if name else f".ephemeral/{volume_id}"
        facts = {"name": name, "environment": environment, "version": version, "folder": folder}
        self._store.put("volume", volume_id, json.dumps(facts).encode())
        self.folder(volume_id)

    def metadata(self, volume_id: str) -> Message:
        """A volume's name and version. Raises: NOT_FOUND."""
        facts = self._facts(volume_id)
        made = creation(self._store.created_at(volume_id))
        return message(proto.VolumeMetadata, name=facts["name"], version=facts["version"], creation_info=made)

    def folder(self, volume_id: str) -> Path:
        """Where a volume's committed files are. Raises: NOT_FOUND."""
        folder = self._folder / str(self._facts(volume_id)["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def file(self, volume_id: str, path: str) -> Path:
        """A committed file. Raises: NOT_FOUND, or an error for a path that leaves the volume."""
        return existing(self.folder(volume_id), path)

    def rename(self, volume_id: str, name: str) -> None:
        """Gives a volume and its folder another name. Raises: NOT_FOUND, ALREADY_EXISTS."""
        facts = self._facts(volume_id)
        environment = facts["environment"]
        if self._store.resolve("volume", environment, name):
            raise already_exists(f"volume `{name}` already exists")
        old = self.folder(volume_id)
        old.rename(old.with_name(name))
        self._store.unbind("volume", environment, facts["name"])
        self._store.bind("volume", environment, name, volume_id)
        facts |= {"name": name, "folder": f"{environment}/{name}"}
        self._store.put("volume", volume_id, json.dumps(facts).encode())

    def _facts(self, volume_id: str) -> dict[str, Any]:
        data = self._store.find("volume", volume_id)
        if data is None:
            raise not_found(f"volume {volume_id} is not known here")
        return dict(json.loads(data))
