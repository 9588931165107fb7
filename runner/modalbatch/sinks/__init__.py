"""Where results go: the layout and the commit protocol of a sink. Runs on: both. Knows stores, not sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from modalbatch.job import volume_paths
from modalbatch.names import MANIFESTS, RECEIPTS, parse_manifest_name, parse_receipt_name
from modalbatch.records import actual_uri
from modalbatch.stores import Store, open_store

if TYPE_CHECKING:
    from modalbatch.job import Job
    from modalbatch.sinks.objects import ObjectSink


def open_sink(job: Job, roots: Mapping[str, str], *, in_container: bool = False) -> ObjectSink:
    """The job's sink, by what its store can promise.

    `in_container`: Modal Volumes are read and written where they are mounted, else through Modal's API.
    """
    store = open_store(
        actual_uri(job.sink.uri, roots),
        endpoint_url=job.sink.endpoint_url,
        credentials=job.sink.credentials,
        volume_paths=volume_paths(job) if in_container else {},
        is_conditional=job.delivery == "exactly_once",
    )
    if store.has_conditional_create and job.delivery == "exactly_once":
        from modalbatch.sinks.objects import ObjectSink

        return ObjectSink(store)
    from modalbatch.sinks.attempts import AttemptSink, modal_arbiter

    is_volume = store.uri.startswith("volume://") or actual_uri(job.sink.uri, roots).startswith("volume://")
    return AttemptSink(store, modal_arbiter(store.uri) if is_volume else None)


def open_existing(store: Store) -> ObjectSink:
    """The sink that stands on a store, whatever job wrote it: by the form of its manifests' and receipts' names."""
    names = (entry.name for prefix in (MANIFESTS, RECEIPTS) for entry in store.list(prefix))
    for name in names:
        manifest, receipt = parse_manifest_name(name), parse_receipt_name(name)
        if (manifest and manifest[1]) or (receipt and receipt.attempt):
            from modalbatch.sinks.attempts import AttemptSink, modal_arbiter

            return AttemptSink(store, modal_arbiter(store.uri) if store.uri.startswith("volume://") else None)
        if manifest or receipt:
            break
    from modalbatch.sinks.objects import ObjectSink

    return ObjectSink(store)


def live_parts(store: Store) -> Iterable[str] | None:
    """Names of the parts that the newest manifest of a sink lists; None where the folder is no sink of ours."""
    sink = open_existing(store)
    if sink.owner() is None:
        return None
    return [part.name for _, receipt in sink.live(sink.newest()) for part in receipt.parts]
