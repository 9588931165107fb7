"""Publishing: from chosen receipts to the next manifest. Runs on: container.

Owns the commit point of a run. Writes nothing when nothing live changes and nothing is to be retired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice

from modalbatch.canonical import encode
from modalbatch.driver.index import Index
from modalbatch.driver.plan import Sight, is_live, kept_segments
from modalbatch.names import is_ours, segment_name
from modalbatch.records import Manifest, Receipt, Segment
from modalbatch.sinks.objects import ObjectSink

#: Receipts in one segment: a run rewrites only the segments that lost one.
SEGMENT_RECEIPTS = 10_000


class Moved(Exception):
    """The sink is not what the plan saw: plan again."""


def publish(sink: ObjectSink, index: Index, sight: Sight, run_id: str) -> Manifest | None:
    """Write the next manifest. The one that is live now: the new one, or the old one when nothing changes.

    Raises:
        Moved: another run published meanwhile, or a part of this run is gone.
    """
    old = sight.manifest
    sink.refresh()
    if sink.newest_number() != sight.generation - 1:
        raise Moved("another run published")
    if index.has_fresh():
        _check_parts(sink, index)
    segments, retired = kept_segments(sink, index, old), tuple(index.unchosen())
    if old and is_live(index, sight, segments, retired):
        sink.confirm(old)
        return old
    segments += _write_segments(sink, index.rest(), sight.generation)
    totals = index.totals()
    void = old.void_with(set(old.retired).difference(retired)) if old else {}
    manifest = Manifest(
        number=sight.generation,
        run_id=run_id,
        accepted=sight.accepted,
        segments=tuple(segments),
        retired=retired,
        counts=totals.counts,
        n_receipts=totals.n_receipts,
        part_bytes=totals.part_bytes,
        extra={"void": void} if void else {},
    )
    # A reader of `_SUCCESS` must not follow it to what the sweep is about to take.
    sink.unmark_success()
    if not sink.publish(manifest):
        raise Moved("another run published first")
    sink.confirm(manifest)
    return manifest


def mark_success(sink: ObjectSink, manifest: Manifest) -> bool:
    """Write `_SUCCESS`, never of an older manifest: its parts may be swept. False when another run has published."""
    if not _is_newest(sink, manifest):
        return False
    sink.mark_success(manifest)
    if _is_newest(sink, manifest):
        return True
    if (sink.success() or {}).get("manifest") == manifest.number:
        sink.unmark_success()
    return False


def _is_newest(sink: ObjectSink, manifest: Manifest) -> bool:
    sink.refresh()
    return sink.newest_number() == manifest.number


def _check_parts(sink: ObjectSink, index: Index) -> None:
    index.forget_objects()
    for entry in sink.store.list():
        if is_ours(entry.name):
            index.add_object(entry.name, entry.size_bytes)
    if lost := index.lost():
        raise Moved(f"{len(lost)} receipts of this run name parts that are gone, for example `{lost[0]}`")


def _write_segments(sink: ObjectSink, rows: Iterator[tuple[str, Receipt]], number: int) -> list[Segment]:
    segments: list[Segment] = []
    while lines := [_line(name, receipt) for name, receipt in islice(rows, SEGMENT_RECEIPTS)]:
        data, n_receipts = b"".join(lines), len(lines)
        del lines  # as large as the segment itself
        sha256 = hashlib.sha256(data).hexdigest()
        name = segment_name(number, len(segments), sha256)
        sink.write_segment(name, data)
        segments.append(Segment(name=name, sha256=sha256, receipts=n_receipts))
    return segments


def _line(name: str, receipt: Receipt) -> bytes:
    return encode({"name": name, **receipt.to_json()}).encode() + b"\n"
