"""Local data of runs on Modal: inputs up, results down. Runs on: laptop.

Owns the Volume of a job with local data: `inputs/<sha256>` for the content of local files, `sink/` in the place of a
local sink, and the mirror of that sink in the local folder. Uploads and downloads only what is missing. The Volume is
the state; the mirror is for reading.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modalbatch.canonical import SINK_FORMAT, encode
from modalbatch.errors import InputChangedError, StateError, UnavailableError
from modalbatch.job import Job, data_volume
from modalbatch.names import CONTROL, MANIFESTS, OWNER, RECEIPTS, RUNS, SUCCESS, is_ours, manifest_name
from modalbatch.records import Part, actual_uri
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import Input
from modalbatch.stores import Store
from modalbatch.stores.local import LocalStore

#: Says of a local folder that it is a mirror, and of what.
MIRROR = CONTROL + "mirror.json"
#: Files that travel at the same time.
TRAVELLERS = 8
_BLOCK_BYTES = 4 << 20


def is_local(uri: str) -> bool:
    """Whether a logical URI means this machine's disk."""
    return "://" not in uri


def sink_roots(job: Job) -> dict[str, str]:
    """Root of a local sink on the job's Volume; empty where the sink is elsewhere anyway."""
    return {job.sink.uri: f"volume://{data_volume(job)}/sink/"} if is_local(job.sink.uri) else {}


def refuse_mirror(folder: Path) -> None:
    """Before results are written into a local sink by this machine.

    Raises:
        StateError: the folder mirrors what was made on Modal.
    """
    if (folder / MIRROR).exists():
        raise StateError(f"`{folder}` mirrors results that were made on Modal", hint="--engine modal, or another sink")


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What staging did."""

    #: Logical URI → where its content lies on the Volume.
    roots: dict[str, str]
    n_files: int
    n_uploaded: int
    uploaded_bytes: int


def stage(job: Job, inputs: Iterable[Input], roots: Mapping[str, str]) -> Staged:
    """Upload the content of local inputs that the job's Volume does not have. `roots` are this machine's.

    Raises:
        InputChangedError: a file changed while it was read.
        UnavailableError: Modal cannot be reached.
    """
    import modal
    from modal.exception import Error, NotFoundError

    name = data_volume(job)
    staged: dict[str, str] = {}
    missing: dict[str, tuple[Path, Input]] = {}
    n_bytes = 0
    try:
        volume = modal.Volume.from_name(name or "", create_if_missing=True, version=2)
        try:
            there = {Path(entry.path).name: entry.size for entry in volume.listdir("/inputs")}
        except (NotFoundError, FileNotFoundError):
            there = {}
        for item in inputs:
            staged[item.uri] = f"volume://{name}/inputs/{item.identity}"
            if there.get(item.identity) != item.size_bytes and item.identity not in missing:
                missing[item.identity] = Path(actual_uri(item.uri, roots)), item
                n_bytes += item.size_bytes
        if missing:
            with volume.batch_upload(force=True) as batch:
                for sha256, (path, _) in missing.items():
                    batch.put_file(path, f"/inputs/{sha256}")
        changed = [sha256 for sha256, (path, item) in missing.items() if _pin(path) != item.pin]
        for sha256 in changed:
            volume.remove_file(f"/inputs/{sha256}")  # its name would lie about its content
    except (Error, OSError) as error:
        raise UnavailableError(
            f"local inputs cannot be brought to Modal: {error}", hint="apply again: what is there stays there"
        ) from error
    if changed:
        path, _ = missing[changed[0]]
        raise InputChangedError(f"`{path}` changed while it was read", hint="apply again")
    return Staged(roots=staged, n_files=len(staged), n_uploaded=len(missing), uploaded_bytes=n_bytes)


def _pin(path: Path) -> str:
    entry = LocalStore(f"{path.parent}/").stat(path.name)
    return entry.pin if entry else ""


class Mirror:
    """The local folder of a sink that lives on a Volume."""

    def __init__(self, folder: Path, sink: ObjectSink) -> None:
        """`sink`: on the Volume."""
        self._folder, self._sink = folder, sink
        self._local = LocalStore(f"{folder}/")

    def check(self) -> None:
        """Before anything is run.

        Raises:
            StateError: the folder holds results that were made on this machine, or mirrors something else.
        """
        path = self._folder / MIRROR
        if path.exists():
            of = json.loads(path.read_text(encoding="utf-8"))["of"]
            if of != self._sink.store.uri:
                raise StateError(f"`{self._folder}` mirrors `{of}`", hint="give this job a sink of its own")
        elif (self._folder / OWNER).exists():
            raise StateError(
                f"`{self._folder}` holds results that were made on this machine",
                hint="give runs on Modal another sink, or remove these with `modalbatch rm`",
            )

    def fetch(self) -> tuple[int, int]:
        """Make the folder hold what is live on the Volume, and nothing of ours besides; files and bytes that came."""
        self._local.replace(MIRROR, encode({"format": SINK_FORMAT, "of": self._sink.store.uri}).encode())
        manifest = self._sink.newest()
        live = list(self._sink.live(manifest))
        number = manifest_name(manifest.number) if manifest else ""
        stays_complete = bool(number) and self._local.stat(number) is not None
        if not stays_complete:
            self._local.delete([SUCCESS])  # of another manifest
        here = {entry.name: entry.size_bytes for entry in self._local.list()}
        parts = [
            part for _, receipt in live for part in receipt.parts + receipt.dead if part.bytes != here.get(part.name)
        ]
        with ThreadPoolExecutor(TRAVELLERS, "modalbatch-mirror") as threads:
            list(threads.map(self._fetch_part, parts))
        wanted = {part.name for _, receipt in live for part in receipt.parts + receipt.dead}
        for name, receipt in live:
            wanted.add(name)
            if name not in here:
                self._local.replace(name, receipt.to_bytes())
        wanted |= set(self._fetch_small(here, [segment.name for segment in manifest.segments] if manifest else []))
        if manifest:
            wanted.add(number)
            self._local.replace(number, self._sink.manifest_bytes(manifest.number))
        if self._sink.success():
            self._local.replace(SUCCESS, self._sink.store.read(SUCCESS))
        self._local.delete([name for name in here if _is_of_state(name) and name not in wanted])
        return len(parts), sum(part.bytes for part in parts)

    def _fetch_small(self, here: Mapping[str, int], segments: list[str]) -> Iterator[str]:
        """Segments, owner, and the story of the runs; their names."""
        store: Store = self._sink.store
        story = [(entry.name, entry.size_bytes) for entry in store.list(RUNS)]
        for name, size_bytes in [*((name, None) for name in [*segments, OWNER]), *story]:
            if name not in here or (size_bytes is not None and here[name] != size_bytes):
                self._local.replace(name, store.read(name))
            yield name

    def _fetch_part(self, part: Part) -> None:
        digest = hashlib.sha256()
        with (
            self._sink.store.open(part.name) as source,
            tempfile.NamedTemporaryFile(dir=self._local.spool_dir(), delete=False) as copy,
        ):
            for block in iter(lambda: source.read(_BLOCK_BYTES), b""):
                digest.update(block)
                copy.write(block)
        path = Path(copy.name)
        if digest.hexdigest() != part.sha256:
            path.unlink()
            raise StateError(f"`{self._sink.store.uri}{part.name}` is not what its receipt says")
        self._local.delete([part.name])  # half of it, from a fetch that was cut
        self._local.put_file(part.name, path, part.sha256)


def _is_of_state(name: str) -> bool:
    """Whether a file of the mirror stands for something on the Volume."""
    return is_ours(name) or name.startswith((RECEIPTS, MANIFESTS))
