"""A sink without conditional create: Modal Volumes, and stores under `delivery: at_least_once`. Runs on: both.

Everything gets an attempt-unique name; the driver alone decides which attempt counts. The unit of commit is the run.
Two drivers are arbitrated by a `modal.Dict`, which is never the record: its entries expire. What it said is noted
beside the manifest before anybody relies on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from modalbatch.errors import NotFoundError, StateError
from modalbatch.names import (
    MANIFESTS,
    decision_name,
    manifest_name,
    parse_decision_name,
    parse_manifest_name,
    receipt_name,
)
from modalbatch.records import Manifest, Receipt
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores import Store

#: What names of manifests, and of decisions between them, are taken apart with.
_FORMS = (parse_manifest_name, parse_decision_name)
#: (key, value) → the value that stands under the key: the first one put. An empty value only asks.
Arbiter = Callable[[str, str], str]


def modal_arbiter(uri: str) -> Arbiter:
    """First put wins, through a `modal.Dict` named for the purpose."""

    def arbitrate(key: str, value: str) -> str:
        import modal

        entries = modal.Dict.from_name("modalbatch-arbiter", create_if_missing=True)
        if value:
            entries.put(f"{uri}{key}", value, skip_if_exists=True)
        return str(entries.get(f"{uri}{key}") or "")

    return arbitrate


class AttemptSink(ObjectSink):
    """Receipts and manifests under unique names; the smallest valid one counts unless a manifest says otherwise."""

    def __init__(self, store: Store, arbiter: Arbiter | None) -> None:
        super().__init__(store)
        self.arbiter = arbiter

    def receipt_name(self, split: str, fingerprint: str, generation: int, attempt: str) -> str:
        """One name for each attempt."""
        return receipt_name(split, fingerprint, generation, attempt)

    def find(self, split: str, fingerprint: str, generation: int) -> Receipt | None:
        """Never: a worker sees other workers' writes late or not at all, the driver decides."""
        return None

    def newest(self) -> Manifest | None:
        """The highest number; among equals the arbitrated one, else the smallest hash."""
        number = self.newest_number()
        return self.manifest(number) if number else None

    def manifest_bytes(self, number: int) -> bytes:
        """The manifest that counts under a number, as it stands.

        Raises:
            NotFoundError: there is none.
        """
        sha = self._decide(number)
        data = self.store.read(manifest_name(number, sha))
        if hashlib.sha256(data).hexdigest()[:16] != sha:
            raise StateError(f"manifest {number} of the sink was altered")
        return data

    def _decide(self, number: int) -> str:
        """Hash of the manifest that counts under a number.

        One that stands alone is asked for, too: its driver may not have got so far, and the next one may win.
        """
        hashes, confirmed = self._hashes(number)
        if confirmed:
            return confirmed[0]
        if not hashes:
            raise NotFoundError(f"manifest {number} is gone")
        if not self.arbiter:
            return hashes[0]
        decided = self.arbiter(self._key(number), hashes[0])
        if decided not in hashes:
            self.store.refresh()
            hashes, _ = self._hashes(number)
        return decided if decided in hashes else hashes[0]

    def _hashes(self, number: int) -> tuple[list[str], list[str]]:
        """Of all manifests under a number, and of the one that is known to count."""
        names = [entry.name for entry in self.store.list(manifest_name(number)[: -len(".json")])]
        found = [sorted(sha for n, sha in filter(None, map(parse, names)) if n == number) for parse in _FORMS]
        return found[0], found[1]

    def confirm(self, manifest: Manifest) -> None:
        """A file beside the manifest: the arbiter forgets."""
        sha = hashlib.sha256(manifest.to_bytes()).hexdigest()
        self.store.create(decision_name(manifest.number, sha), b"")
        self.store.commit()

    def publish(self, manifest: Manifest) -> bool:
        """Write the manifest under its content's name, then let the arbiter decide."""
        data = manifest.to_bytes()
        sha = hashlib.sha256(data).hexdigest()[:16]
        # Segments before the manifest: a commit in the background may show one file and not the other.
        self.store.commit()
        self.store.create(manifest_name(manifest.number, sha), data)
        self.store.commit()
        if self.arbiter and self.arbiter(self._key(manifest.number), sha) != sha:
            self.store.delete([manifest_name(manifest.number, sha)])
            self.store.commit()
            return False
        return True

    def put_note(self, name: str) -> None:
        """Beside the volume where there is an arbiter: workers see each other's files late or not at all."""
        if self.arbiter:
            self.arbiter(name, "noted")
        else:
            super().put_note(name)

    def has_note(self, name: str) -> bool:
        """Whether a note was left; asking leaves none."""
        return self.arbiter(name, "") == "noted" if self.arbiter else super().has_note(name)

    def _key(self, number: int) -> str:
        """What the arbiter knows a manifest's number by: its entries outlive a sink that was deleted."""
        nonce = (self.owner() or {}).get("nonce", "")
        return f"{nonce}/{MANIFESTS}{number}" if nonce else f"{MANIFESTS}{number}"
