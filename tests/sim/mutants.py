"""The protocol, broken on purpose: what the schedules must catch to be worth anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import simulation

import memory_store
from modalbatch.driver import index, plan, run, runs, sweep
from modalbatch.records import parse_receipt_name
from modalbatch.runtime import commit
from modalbatch.sinks.objects import ObjectSink

Mutant = Callable[[], AbstractContextManager[None]]


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
        sink.store.before("create", name)
        sink.store.memory.put(name, receipt.to_bytes())
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
    return _changed((index.Index, "carries", lambda self: iter(())), (index.Index, "n_missing", index.Index._n_todo))


def delete_on_bare_lost() -> AbstractContextManager[None]:
    """A lost reply, repeated by the client, answers "taken" to our own success, and nobody reads back or looks."""
    create = memory_store.MemoryStore.create

    def create_with_deaf_client(store: Any, name: str, data: bytes) -> bool:
        done = create(store, name, data)
        return done and not (parse_receipt_name(name) and store.world.rng.random() < 0.1)

    def commit_or_delete(sink: ObjectSink, receipt: Any) -> Any:
        name = sink.receipt_name(receipt.split, receipt.fingerprint, receipt.generation, receipt.attempt)
        if not sink.store.create(name, receipt.to_bytes()):
            sink.delete(part.name for part in receipt.parts + receipt.dead)
        return receipt

    return _changed(
        (memory_store.MemoryStore, "create", create_with_deaf_client),
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
        from modalbatch.records import manifest_name

        name = manifest_name(manifest.number)
        sink.store.before("create", name)
        sink.store.memory.objects.pop(name, None)
        sink.store.memory.put(name, manifest.to_bytes())
        sink.store.changed("create", name)
        return True

    return _changed((ObjectSink, "publish", write))


def retired_counts_as_done() -> AbstractContextManager[None]:
    """Planning believes receipts that the newest manifest has retired."""
    newest = ObjectSink.newest

    def read_sink(sink: ObjectSink, *args: Any, **options: Any) -> Any:
        forgetful = type(sink)(sink.store)
        forgetful.newest = lambda: (found := newest(sink)) and replace(found, retired=())
        sight = plan.read_sink(forgetful, *args, **options)
        return replace(sight, manifest=newest(sink)) if sight.manifest else sight

    return _changed((run, "read_sink", read_sink))


def platform_never_kills() -> AbstractContextManager[None]:
    """Attempts live for ever and commit however late."""
    return _changed(
        (simulation, "PLATFORM_KILLS_S", float("inf")),
        (simulation, "commit_attempt", partial(_commit_without_deadline, commit.commit_attempt)),
    )


def _commit_without_deadline(commit_attempt: Any, *args: Any, **options: Any) -> Any:
    return commit_attempt(*args, **options | {"elapsed_s": lambda: 0.0})


def ended_runs_still_run() -> AbstractContextManager[None]:
    """The sweep under a local engine believes that nothing runs, whatever the runs say."""
    return _changed((runs, "none_is_running", lambda *args, **options: True))


MUTANTS: dict[str, Mutant] = {
    "receipts_overwrite": receipts_overwrite,
    "receipt_before_parts": receipt_before_parts,
    "sweep_what_is_not_live": sweep_what_is_not_live,
    "gone_inputs_go_with_their_split": gone_inputs_go_with_their_split,
    "delete_on_bare_lost": delete_on_bare_lost,
    "orphans_by_age_alone": orphans_by_age_alone,
    "orphans_of_any_age": orphans_of_any_age,
    "manifests_overwrite": manifests_overwrite,
    "retired_counts_as_done": retired_counts_as_done,
    "platform_never_kills": platform_never_kills,
    "ended_runs_still_run": ended_runs_still_run,
}
