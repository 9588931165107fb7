"""The plan: job x listing x receipts. Runs on: both.

Owns which splits are to be done: reads the sink into an index, enumerates the source lazily, packs small inputs. Writes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from modalbatch.canonical import SINK_FORMAT, Json
from modalbatch.driver.gone import settle_removed
from modalbatch.driver.index import Carry, Index
from modalbatch.driver.tally import Reasons, Tally, reasons, tally
from modalbatch.errors import NotFoundError, StateError
from modalbatch.job import Job
from modalbatch.names import CONTROL, RECEIPTS, is_ours, parse_receipt_name
from modalbatch.records import Manifest, Receipt, Segment, Split, Unit
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import Source

#: Most bytes of reference in a pack: it crosses the wire.
PACK_WIRE_BYTES = 6000
#: With a rule in bytes, packs are not smaller than this: a split has a price too.
MIN_PACK_BYTES = 64 << 10
#: Small units that are looked at before the first pack is made.
LOOK_AHEAD = 2048
#: Names of inputs that a plan gives for each reason.
N_EXAMPLES = 5
#: Receipts read at the same time.
READERS = 16


@dataclass(slots=True)
class Sight:
    """What planning saw of the sink."""

    manifest: Manifest | None
    #: Fingerprints whose receipts count as done, the job's own among them.
    accepted: tuple[str, ...]

    @property
    def generation(self) -> int:
        """Number of the manifest that a run now would write."""
        return (self.manifest.number if self.manifest else 0) + 1


def check_owner(job: Job, sink: ObjectSink, *, into_existing: bool = False, adopt: bool = False) -> None:
    """Refuse a sink of another job, and foreign data before the first run.

    Raises:
        StateError: with the option that overrides.
    """
    owner = sink.owner()
    if owner is None:
        foreign = next((e.name for e in sink.store.list() if not e.name.startswith(CONTROL)), None)
        if foreign and not into_existing:
            raise StateError(
                f"the sink `{job.sink.uri}` already holds data that is not of modalbatch, for example `{foreign}`",
                hint="use an empty sink, or add --into-existing to write beside it",
            )
        return
    theirs = owner["name"], owner["environment"]
    if theirs != (job.name, job.environment) and not adopt:
        raise StateError(
            f"the sink `{job.sink.uri}` belongs to job `{theirs[0]}`"
            + (f" in environment `{theirs[1]}`" if theirs[1] else ""),
            hint="give this job a sink of its own, or take this one over with --adopt",
        )


def owner_of(job: Job, measured_bytes: int | None = None) -> Json:
    """What owner.json says of this job; `measured_bytes`: the rule that a sample showed, for splits of `auto`."""
    rule: Json = {"bytes": job.source.split.bytes, "files": job.source.split.files}
    if measured_bytes:
        rule = {"bytes": measured_bytes, "files": None, "measured": True}
    return {"format": SINK_FORMAT, "name": job.name, "environment": job.environment, "split": rule}


def read_sink(sink: ObjectSink, index: Index, fingerprint: str, *, keep: bool) -> Sight:
    """Fill the index with what the sink holds and decide what is done.

    `keep`: results under the fingerprints that the newest manifest accepts count as this job's.
    """
    sink.refresh()
    manifest = sink.newest()
    accepted = {fingerprint}
    if manifest and (keep or fingerprint in manifest.accepted):
        accepted.update(manifest.accepted)
    retired = set(manifest.retired) if manifest else set()
    for entry in sink.store.list():
        if is_ours(entry.name):
            index.add_object(entry.name, entry.size_bytes)
        elif parse_receipt_name(entry.name):
            index.add_receipt(entry.name)
    for name in retired:
        # A slow sweep may still delete this name, and the generation that comes next would use it again.
        if (found := parse_receipt_name(name)) and manifest and found.generation > manifest.number:
            index.add_receipt(name)
    for name, receipt in sink.live(manifest):
        index.fill_receipt(name, receipt, live=True, accepted=receipt.fingerprint in accepted)
    unread = (
        name
        for name in index.unread(fp[:8] for fp in accepted)
        if name not in retired and not (manifest and manifest.is_void(name))
    )
    for name, read in read_receipts(sink, unread):
        if read and read.fingerprint in accepted:
            index.fill_receipt(name, read, live=False, accepted=True)
    index.choose()
    return Sight(manifest, tuple(sorted(accepted)))


def read_receipts(sink: ObjectSink, names: Iterable[str]) -> Iterator[tuple[str, Receipt | None]]:
    """Each with its content, None where it is gone or torn; many at the same time, in order."""
    names = iter(names)
    with sink.executor(READERS, "modalbatch-receipts") as threads:
        while chosen := list(islice(names, READERS * 64)):  # bounded: futures and receipts of one slice at a time
            yield from zip(chosen, threads.map(lambda name: _receipt(sink, name), chosen), strict=True)


def _receipt(sink: ObjectSink, name: str) -> Receipt | None:
    try:
        return sink.read_receipt(name)
    except StateError:
        return None  # torn: it counts for nothing, and is retired by the next manifest


def unheard_receipts(sink: ObjectSink, maker: SplitMaker) -> Iterator[tuple[str, Receipt]]:
    """Receipts of wanted units that were written since the sink was read, and that the index has not heard of; lazy.

    A split that was divided has its lines in receipts whose names nobody knows whose answers are lost.
    """

    def is_new(name: str) -> bool:
        found = parse_receipt_name(name)
        # What is older, or known and not read, may be void.
        is_ours_now = found and found.fp8 == maker.fingerprint[:8] and found.generation >= maker.generation
        return bool(is_ours_now) and not maker.index.has_receipt(name)

    sink.refresh()
    names = (entry.name for entry in sink.store.list(RECEIPTS) if is_new(entry.name))
    for name, receipt in read_receipts(sink, names):
        if receipt and receipt.fingerprint == maker.fingerprint and maker.index.wants(receipt.units):
            yield name, receipt


def enumerate_missing(source: Source, index: Index) -> Iterator[Unit]:
    """Wanted units, and pieces of them, that are surely not done, in listing order; lazy.

    After the last one the index knows the whole source: `settle_removed` may then bring up more (`index.missing`).
    """
    for unit in source.units():
        if index.want(unit) and not index.may_be_done(unit):
            yield from index.undone(unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What a pack of small inputs may hold: one split for transport, done-ness stays with each unit."""

    bytes: int = 64 << 20
    units: int = 100
    #: Units above this size are never packed.
    small_bytes: int = 4 << 20
    #: Whether packs are made smaller while some containers would have none.
    is_eager: bool = True

    @classmethod
    def of(cls, job: Job, *, is_measured: bool) -> Packing:
        """By the rule in force: so many files, so many bytes, or what is good for most."""
        rule = job.source.split
        if rule.files:
            return cls(bytes=1 << 62, units=rule.files, small_bytes=1 << 62, is_eager=False)
        if rule.bytes:
            most = rule.bytes if is_measured else max(rule.bytes, MIN_PACK_BYTES)
            return cls(bytes=most, small_bytes=most // 2)
        return cls()


@dataclass(frozen=True, kw_only=True)
class SplitMaker:
    """Turns units into splits."""

    fingerprint: str
    run_id: str
    roots: Mapping[str, str]
    index: Index
    generation: int
    #: Containers that could work at the same time: while few splits are out, packs stay small.
    containers: int
    #: What may be packed together.
    packing: Packing

    def splits(self, units: Iterator[Unit]) -> Iterator[Split]:
        """One split for a large unit, packs of small ones. Memory: `LOOK_AHEAD` units."""
        n_made, small = 0, []
        for unit in units:
            if unit.end - unit.start > self.packing.small_bytes:
                yield self.split([unit])
                n_made += 1
                continue
            small.append(unit)
            if len(small) >= LOOK_AHEAD:
                for pack in self._packs(small, n_made):
                    yield self.split(pack)
                    n_made += 1
                small = []
        for pack in self._packs(small, n_made):
            yield self.split(pack)

    def carried(self, carries: Iterable[Carry]) -> Iterator[Split]:
        """One split for each receipt from which something is carried over, under that receipt's fingerprint."""
        for carry in carries:
            yield self.split(carry.units, carry.fingerprint, carry.receipt)

    def split(self, units: list[Unit], fingerprint: str = "", carry: str = "", *, retry: Json | None = None) -> Split:
        """The split of these units, in a generation that no void receipt of it has."""
        fingerprint = fingerprint or self.fingerprint
        roots = dict(self.folders)
        roots.update((unit.uri, self.roots[unit.uri]) for unit in units if unit.uri in self.roots)
        split = Split(
            units=tuple(units),
            generation=self.generation,
            fingerprint=fingerprint,
            run_id=self.run_id,
            roots=roots,
            carry=carry,
            retry=retry or {},
        )
        generation = self.index.generation(split.id, fingerprint, self.generation)
        return split if generation == self.generation else replace(split, generation=generation)

    @cached_property
    def folders(self) -> dict[str, str]:
        """Roots of folders, which every split carries; single staged files go with their own split only."""
        return {prefix: root for prefix, root in self.roots.items() if not prefix or prefix.endswith("/")}

    def _packs(self, units: list[Unit], n_made: int) -> Iterator[list[Unit]]:
        # Enough packs for everyone first, large packs later.
        packing = self.packing
        lacking = max(0, 4 * self.containers - n_made) if packing.is_eager else 0
        most_units = min(packing.units, max(1, len(units) // lacking)) if lacking else packing.units
        n_bytes = sum(unit.end - unit.start for unit in units)
        most_bytes = min(packing.bytes, max(1, n_bytes // lacking)) if lacking else packing.bytes
        pack: list[Unit] = []
        size = wire = 0
        for unit in units:
            more, text = unit.end - unit.start, len(unit.uri) + len(unit.identity) + len(unit.pin) + 40
            full = len(pack) >= most_units or size + more > most_bytes or wire + text > PACK_WIRE_BYTES
            if pack and full:
                yield pack
                pack, size, wire = [], 0, 0
            pack.append(unit)
            size += more
            wire += text
        if pack:
            yield pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `plan` shows."""

    tally: Tally
    n_units: int
    n_inputs: int
    sight: Sight
    #: Whether the newest manifest already says all that a run now would publish: there is nothing to do.
    is_published: bool
    #: Why each unit is done, or is to be done.
    reasons: Reasons

    @property
    def n_todo(self) -> int:
        """Units to process."""
        return self.tally.new + self.tally.changed


def plan(job: Job, sink: ObjectSink, source: Source, fingerprint: str, *, keep: bool) -> Plan:
    """List everything and count; writes nothing.

    Raises:
        NotFoundError: the source is empty and the spec does not allow it.
    """
    index = Index()
    try:
        sight = read_sink(sink, index, fingerprint, keep=keep)
        for _ in enumerate_missing(source, index):
            pass
        check_not_empty(job, index)
        settle_removed(index, job.source.on_removed)
        segments = kept_segments(sink, index, sight.manifest)
        is_published = index.n_missing() == 0 and is_live(index, sight, segments, tuple(index.unchosen()))
        return Plan(
            tally=tally(index),
            n_units=index.n_wanted(),
            n_inputs=index.n_inputs(),
            sight=sight,
            is_published=is_published,
            reasons=reasons(index, N_EXAMPLES),
        )
    finally:
        index.close()


def kept_segments(sink: ObjectSink, index: Index, manifest: Manifest | None) -> list[Segment]:
    """The segments that the next manifest can list as they are: each of their receipts is still live."""
    segments = manifest.segments if manifest else ()
    return [item for item in segments if index.keep_if_chosen([name for name, _ in sink.live_in(item)])]


def is_live(index: Index, sight: Sight, kept: Sequence[Segment], retired: Sequence[str]) -> bool:
    """Whether the newest manifest already says what the next one would. Order: after `kept_segments`."""
    manifest = sight.manifest
    return (
        manifest is not None
        and not index.has_rest()
        and len(kept) == len(manifest.segments)
        and set(retired) <= set(manifest.retired)
        and sight.accepted == manifest.accepted
    )


def check_not_empty(job: Job, index: Index) -> None:
    """After the whole source was listed.

    Raises:
        NotFoundError: it has no input and `source.allow_empty` is not set.
    """
    if not job.source.allow_empty and index.n_wanted() == 0:
        uris = ", ".join(f"`{uri}`" for uri in job.source.uris)
        raise NotFoundError(f"no input matches {uris}", hint="check source.uri, or set `source: {allow_empty: true}`")
