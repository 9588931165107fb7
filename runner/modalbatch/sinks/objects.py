"""A sink on a store with conditional create: S3-class stores and local disk. Runs on: both.

Owns the commit points: the receipt of a split, the manifest of a run. Refuses to overwrite.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from modalbatch.canonical import Json, encode, parse_json, seal, unseal
from modalbatch.errors import NotFoundError, StateError
from modalbatch.names import MANIFESTS, OWNER, SUCCESS, manifest_name, parse_manifest_name, receipt_name
from modalbatch.records import Manifest, Part, Receipt, Segment, parse_receipt
from modalbatch.stores import Store


class ObjectSink:
    """The layout and the commit points, on one store."""

    def __init__(self, store: Store, executor: Callable[[int, str], Executor] = ThreadPoolExecutor) -> None:
        """`executor`: makes a pool of so many threads with that name, for whoever reads many objects."""
        self.store, self.executor = store, executor

    # -- owner

    def owner(self) -> Json | None:
        """Who this sink belongs to and its split rule; None before the first run.

        Raises:
            StateError: altered, or written by a later version.
        """
        try:
            return unseal(self.store.read(OWNER), "sink's owner.json")
        except NotFoundError:
            return None

    def claim(self, owner: Json) -> Json:
        """Write owner.json once, with a nonce that tells this sink from one that stood here before it; the owner that
        stands, ours or another's."""
        owner = {**owner, "nonce": secrets.token_hex(8)}
        if self.store.create(OWNER, seal(owner)):
            return owner
        found = self.owner()
        if found is None:
            raise StateError("owner.json of the sink comes and goes")
        return found

    # -- receipts

    def receipt_name(self, split: str, fingerprint: str, generation: int, attempt: str) -> str:
        """The name under which an attempt commits: the same for all attempts, so that one wins."""
        return receipt_name(split, fingerprint, generation)

    def find(self, split: str, fingerprint: str, generation: int) -> Receipt | None:
        """The receipt that stands for a split, if any."""
        try:
            return parse_receipt(self.store.read(receipt_name(split, fingerprint, generation)))
        except NotFoundError:
            return None

    def commit(self, receipt: Receipt) -> Receipt:
        """Write a receipt, once; the one that stands: ours iff its attempt is ours.

        Order: after the parts. Retry-safe: yes, an attempt id is in the bytes.
        """
        name = self.receipt_name(receipt.split, receipt.fingerprint, receipt.generation, receipt.attempt)
        if self.store.create(name, receipt.to_bytes()):
            self.store.commit()
            return receipt
        return parse_receipt(self.store.read(name))

    def read_receipt(self, name: str) -> Receipt | None:
        """The receipt under a name; None when it is gone or torn: such a receipt counts for nothing."""
        try:
            return parse_receipt(self.store.read(name))
        except NotFoundError:
            return None

    def put(self, part_path: Path, part: Part) -> None:
        """Publish a finished part or dead-letter file under its attempt-unique name."""
        self.store.put_file(part.name, part_path, part.sha256)

    # -- manifests

    def newest(self) -> Manifest | None:
        """The manifest that readers follow; None before the first."""
        numbers = [found[0] for entry in self.store.list(MANIFESTS) if (found := parse_manifest_name(entry.name))]
        return self.manifest(max(numbers)) if numbers else None

    def newest_number(self) -> int:
        """Its number, 0 before the first; one listing, no read."""
        return max(
            (found[0] for entry in self.store.list(MANIFESTS) if (found := parse_manifest_name(entry.name))), default=0
        )

    def manifest(self, number: int) -> Manifest:
        """The manifest of that number.

        Raises:
            NotFoundError: there is none.
        """
        return Manifest.from_bytes(self.manifest_bytes(number))

    def manifest_bytes(self, number: int) -> bytes:
        """The manifest of that number as it stands.

        Raises:
            NotFoundError: there is none.
        """
        return self.store.read(manifest_name(number))

    def publish(self, manifest: Manifest) -> bool:
        """Make a run live; False when another run has published this number."""
        done = self.store.create(manifest_name(manifest.number), manifest.to_bytes())
        self.store.commit()
        return done

    def confirm(self, manifest: Manifest) -> None:
        """Note for good that this manifest counts under its number. Order: before anything that it retires is deleted.

        Here the name alone says so.
        """

    def write_segment(self, name: str, data: bytes) -> None:
        """Write one segment; its name holds its content's hash, so a second writer writes the same."""
        if not self.store.create(name, data):
            raise StateError(f"`{name}` of the sink was altered")

    def live(self, manifest: Manifest | None) -> Iterator[tuple[str, Receipt]]:
        """Name and receipt of every live split, in the manifest's order; lazy, one segment in memory.

        Raises:
            StateError: a segment is gone or altered.
        """
        for segment in manifest.segments if manifest else ():
            yield from self.live_in(segment)

    def live_in(self, segment: Segment) -> Iterator[tuple[str, Receipt]]:
        """`live`, of one segment."""
        for line in BytesIO(self.segment(segment)):
            data = parse_json(line, "manifest segment")
            yield data.pop("name"), Receipt.from_json(data)

    def segment(self, segment: Segment) -> bytes:
        """The bytes of a segment.

        Raises:
            StateError: it is gone or altered.
        """
        try:
            data = self.store.read(segment.name)
        except NotFoundError as error:
            raise StateError(f"`{segment.name}` of the manifest is missing") from error
        if hashlib.sha256(data).hexdigest() != segment.sha256:
            raise StateError(f"`{segment.name}` of the manifest was altered")
        return data

    # -- _SUCCESS

    def success(self) -> Json | None:
        """What `_SUCCESS` says: {manifest, sha256}; None without it."""
        try:
            return parse_json(self.store.read(SUCCESS), "_SUCCESS")
        except NotFoundError:
            return None

    def mark_success(self, manifest: Manifest) -> None:
        """Write `_SUCCESS`: the newest manifest is complete and its run ended with exit code 0."""
        text = encode({"manifest": manifest.number, "sha256": hashlib.sha256(manifest.to_bytes()).hexdigest()})
        self.store.replace(SUCCESS, text.encode())
        self.store.commit()

    def unmark_success(self) -> None:
        """Remove `_SUCCESS`. Order: before the first receipt of a run that changes the sink."""
        if self.store.stat(SUCCESS):
            self.store.delete([SUCCESS])
            self.store.commit()

    # -- hints (see `sinks.notes`)

    def put_note(self, name: str) -> None:
        """Leave a note that workers see soon."""
        self.store.replace(name, b"{}")

    def has_note(self, name: str) -> bool:
        """Whether a note was left."""
        return self.store.stat(name) is not None

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects of ours."""
        self.store.delete(names)

    def refresh(self) -> None:
        """See what others wrote."""
        self.store.refresh()
