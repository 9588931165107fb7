"""The protocol, broken on purpose: what the schedules must catch to be worth anything.

A line of `MUTANTS` is a kind of schedule and a change of the real code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from modalbatch.driver import gone, index, ledger, plan, publish, run, runs, sweep
from modalbatch.names import manifest_name, parse_receipt_name
from modalbatch.records import digest
from modalbatch.runtime import commit
from modalbatch.sinks.attempts import AttemptSink
from modalbatch.sinks.objects import ObjectSink
from sim import network, worker, world

Change = Callable[[], AbstractContextManager[None]]


@contextmanager
def _changed(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def receipts_overwrite() -> AbstractContextManager[None]:
    """A receipt is an unconditional write: the last attempt wins."""

    def commit_receipt(sink: ObjectSink, receipt: Any) -> Any:
        name = sink.receipt_name(receipt.split, receipt.fingerprint, receipt.generation, receipt.attempt)
        _overwrite(sink, name, receipt.to_bytes())
        return receipt

    return _changed((ObjectSink, "commit", commit_receipt))


def receipt_before_parts() -> AbstractContextManager[None]:
    """The commit point comes first, and planning believes it."""
    put, commit_receipt = ObjectSink.put, ObjectSink.commit

    def put_later(sink: ObjectSink, path: Any, part: Any) -> None:
        sink.__dict__.setdefault("late", []).append((path, part))

    def commit_first(sink: ObjectSink, receipt: Any) -> Any:
        stands = commit_receipt(sink, receipt)
        for path, part in sink.__dict__.pop("late", []):
            put(sink, path, part)
        return stands

    return _changed(
        (ObjectSink, "put", put_later),
        (ObjectSink, "commit", commit_first),
        (index.Index, "has_parts", lambda self, receipt: True),
    )


def sweep_what_is_not_live() -> AbstractContextManager[None]:
    """Manifests retire nothing; the sweep takes whatever the newest one does not list."""

    def sweep_all(sink: ObjectSink, manifest: Any, **options: Any) -> int:
        if manifest:
            live = {name for name, _ in sink.live(manifest)}
            receipts = [e.name for e in sink.store.list("_modalbatch/receipts/") if parse_receipt_name(e.name)]
            manifest = replace(manifest, retired=tuple(name for name in receipts if name not in live))
        return sweep.sweep(sink, manifest, **options)

    return _changed((run, "sweep", sweep_all), (index.Index, "unchosen", lambda self: iter(())))


def gone_inputs_go_with_their_split() -> AbstractContextManager[None]:
    """A receipt that is given up for some of its inputs takes the output of those that are gone along."""
    return _changed((index.Index, "carries", lambda self: iter(())), (index.Index, "n_missing", index.Index.n_todo))


def delete_on_bare_lost() -> AbstractContextManager[None]:
    """A lost reply, repeated by the client, answers "taken" to our own success, and nobody reads back or looks."""
    create = network.SimStore.create

    def create_with_deaf_client(store: Any, name: str, data: bytes) -> bool:
        done = create(store, name, data)
        return done and not (parse_receipt_name(name) and store.world.rng.random() < 0.1)

    def commit_or_delete(sink: ObjectSink, receipt: Any) -> Any:
        name = sink.receipt_name(receipt.split, receipt.fingerprint, receipt.generation, receipt.attempt)
        if not sink.store.create(name, receipt.to_bytes()):
            sink.delete(part.name for part in receipt.parts + receipt.dead)
        return receipt

    return _changed(
        (network.SimStore, "create", create_with_deaf_client),
        (ObjectSink, "commit", commit_or_delete),
        (index.Index, "has_parts", lambda self, receipt: True),
    )


def orphans_by_age_alone() -> AbstractContextManager[None]:
    """Old parts go, whether a receipt names them or not."""
    return _changed((sweep, "_forget_named", lambda *args, **options: None))


def orphans_of_any_age() -> AbstractContextManager[None]:
    """Parts without a receipt go at once, on Modal too."""
    return _changed((sweep, "DEADLINE_TIMEOUTS", -(10**6)))


def manifests_overwrite() -> AbstractContextManager[None]:
    """Two drivers write the same manifest, the later one stays."""

    def write(sink: ObjectSink, manifest: Any) -> bool:
        _overwrite(sink, manifest_name(manifest.number), manifest.to_bytes())
        return True

    return _changed((ObjectSink, "publish", write))


def retired_counts_as_done() -> AbstractContextManager[None]:
    """Planning believes receipts that the newest manifest has retired."""
    newest = ObjectSink.newest

    def read_sink(sink: ObjectSink, *args: Any, **options: Any) -> Any:
        forgetful = type(sink)(sink.store, sink.executor)
        forgetful.newest = lambda: (found := newest(sink)) and replace(found, retired=())
        sight = plan.read_sink(forgetful, *args, **options)
        return replace(sight, manifest=newest(sink)) if sight.manifest else sight

    return _changed((run, "read_sink", read_sink))


def lines_may_overlap() -> AbstractContextManager[None]:
    """Two receipts count unless they name the same unit or the same lines of it."""

    def overlaps(self: index.Index, units: Any, ids: list[str]) -> bool:
        marks = ",".join("?" * len(ids))
        return bool(self._db.execute(f"SELECT 1 FROM cover WHERE unit IN ({marks})", ids).fetchone())

    return _changed((index.Index, "_overlaps", overlaps))


def any_piece_stands_for_all() -> AbstractContextManager[None]:
    """A unit is done once some of its lines are."""
    undone, n_missing = index.Index.undone, index.Index.n_missing

    def nothing_if_any(self: index.Index, unit: Any) -> Any:
        found = list(undone(self, unit))
        return iter(found if found == [unit] else ())

    def missing(self: index.Index) -> int:
        pieces = "SELECT count(*) FROM want WHERE unit IN (SELECT stem FROM piece) AND unit NOT IN "
        return n_missing(self) - self.count(pieces + index.WHOLE)

    return _changed((index.Index, "undone", nothing_if_any), (index.Index, "n_missing", missing))


def platform_never_kills() -> AbstractContextManager[None]:
    """Attempts live for ever and commit however late."""
    return _changed(
        (world, "PLATFORM_KILLS_S", {"worker": float("inf"), "driver": float("inf")}),
        (worker, "commit_attempt", partial(_commit_without_deadline, commit.commit_attempt)),
    )


def _commit_without_deadline(commit_attempt: Any, *args: Any, **options: Any) -> Any:
    return commit_attempt(*args, **options | {"elapsed_s": lambda: 0.0})


def ended_runs_still_run() -> AbstractContextManager[None]:
    """The sweep under a local engine believes that nothing runs, whatever the runs say."""
    return _changed((runs, "none_is_running", lambda *args, **options: True))


def driver_minted_attempts() -> AbstractContextManager[None]:
    """The id of an attempt comes with its input, which the platform may run twice."""
    return _changed((world.World, "mint", lambda self, split: digest(split.to_text()) + 8 * "0"))


def sweep_before_manifest() -> AbstractContextManager[None]:
    """What the next manifest retires goes before anybody can read it."""
    write = ObjectSink.publish

    def publish_late(sink: ObjectSink, manifest: Any) -> bool:
        sweep._sweep_retired(sink, manifest)
        return write(sink, manifest)

    return _changed((ObjectSink, "publish", publish_late))


def void_names_count_again() -> AbstractContextManager[None]:
    """What was retired and forgotten counts when a late attempt writes it again."""
    return _changed((plan.Manifest, "is_void", lambda self, name: False))


def ages_by_the_machines_clock() -> AbstractContextManager[None]:
    """Objects are as old as the driver's own clock says."""
    return _changed((ledger.Ledger, "store_clock_s", lambda self: self._store.actor.world.machine_clock_s()))


def success_of_any_manifest() -> AbstractContextManager[None]:
    """`_SUCCESS` is written without a look at what else was published."""

    def mark(sink: ObjectSink, manifest: Any) -> bool:
        sink.mark_success(manifest)
        return True

    return _changed((run, "mark_success", mark))


def what_was_done_instead_is_forgotten() -> AbstractContextManager[None]:
    """What a run did in place of a pack does not count once the pack is given up."""
    return _changed((gone, "_choose_instead", lambda index: None))


def no_arbiter() -> AbstractContextManager[None]:
    """Two drivers on a Volume, and nobody decides between them."""
    return _changed((network.Volume, "arbiter", lambda self, actor: None))


def a_lone_manifest_is_believed() -> AbstractContextManager[None]:
    """A manifest that is there counts, though its driver has not asked the arbiter yet."""
    decide = AttemptSink._decide

    def believe(sink: AttemptSink, number: int) -> str:
        hashes, _ = sink._hashes(number)
        return hashes[0] if len(hashes) == 1 else decide(sink, number)

    return _changed((AttemptSink, "_decide", believe))


def decisions_are_not_noted() -> AbstractContextManager[None]:
    """The arbiter is the only record of which manifest counts."""
    return _changed((AttemptSink, "confirm", lambda self, manifest: None))


def return_values_are_trusted() -> AbstractContextManager[None]:
    """A worker does not commit the Volume, and the driver believes what it is told."""
    told: dict[str, Any] = {}
    read = ObjectSink.read_receipt

    def commit_later(sink: ObjectSink, receipt: Any) -> Any:
        name = sink.receipt_name(receipt.split, receipt.fingerprint, receipt.generation, receipt.attempt)
        sink.store.create(name, receipt.to_bytes())
        told[name] = receipt
        return receipt

    return _changed(
        (AttemptSink, "commit", commit_later),
        (AttemptSink, "read_receipt", lambda sink, name: read(sink, name) or told.get(name)),
        (publish, "_check_parts", lambda sink, index: None),
    )


def fixed_names() -> AbstractContextManager[None]:
    """All attempts write to the same names."""
    part_name, dead_name = commit.part_name, commit.dead_name
    return _changed(
        (commit, "part_name", lambda split, attempt, suffix: part_name(split, "0" * 8, suffix)),
        (commit, "dead_name", lambda split, attempt: dead_name(split, "0" * 8)),
    )


def torn_parts_count() -> AbstractContextManager[None]:
    """A part that is there counts, whatever it holds."""

    def has_names(self: index.Index, receipt: Any) -> bool:
        names = [part.name for part in receipt.parts + receipt.dead]
        return all(self._db.execute("SELECT 1 FROM object WHERE name = ?", (name,)).fetchone() for name in names)

    return _changed((index.Index, "has_parts", has_names))


def _overwrite(sink: ObjectSink, name: str, data: bytes) -> None:
    sink.store._write("create", name, lambda: sink.store._put("create", name, data))


class Mutant(NamedTuple):
    """A kind of schedules, and the change that they must catch."""

    kind: str
    broken: Change


MUTANTS: dict[str, Mutant] = {
    change.__name__: Mutant(kind, change)
    for kind, changes in {
        "plain": [
            receipts_overwrite,
            receipt_before_parts,
            driver_minted_attempts,
            sweep_before_manifest,
            sweep_what_is_not_live,
            gone_inputs_go_with_their_split,
            delete_on_bare_lost,
            orphans_by_age_alone,
            orphans_of_any_age,
            ages_by_the_machines_clock,
            manifests_overwrite,
            retired_counts_as_done,
            platform_never_kills,
            ended_runs_still_run,
            success_of_any_manifest,
            what_was_done_instead_is_forgotten,
        ],
        "hurried": [void_names_count_again],
        "raced": [decisions_are_not_noted],
        "divided": [lines_may_overlap, any_piece_stands_for_all],
        "volume": [
            no_arbiter,
            a_lone_manifest_is_believed,
            return_values_are_trusted,
            fixed_names,
            torn_parts_count,
        ],
    }.items()
    for change in changes
}
