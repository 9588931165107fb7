"""What is looked at before and after a manifest is written, and what it says."""

from __future__ import annotations

import hashlib

import pytest

from memory_store import FP, Memory, MemoryStore, put_part
from modalbatch.canonical import encode
from modalbatch.driver.index import Index
from modalbatch.driver.plan import Sight
from modalbatch.driver.publish import Moved, mark_success, publish
from modalbatch.records import Manifest, Receipt
from modalbatch.sinks.objects import ObjectSink


class Confirming(ObjectSink):
    """Notes what is confirmed, and when."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.confirmed: list[tuple[int, int]] = []

    def confirm(self, manifest: Manifest) -> None:
        self.confirmed.append((manifest.number, self.newest_number()))


@pytest.fixture
def sink(tmp_path) -> Confirming:
    return Confirming(MemoryStore(Memory(), tmp_path))


@pytest.fixture
def index():
    index = Index()
    yield index
    index.close()


def accept(sink: ObjectSink, index: Index, uri: str) -> tuple[str, Receipt]:
    receipt = sink.commit(put_part(sink, uri))
    name = sink.receipt_name(receipt.split, FP, receipt.generation, receipt.attempt)
    index.want(receipt.units[0])
    assert index.accept(name, receipt)
    return name, receipt


def test_a_manifest_holds_what_is_live(sink, index) -> None:
    sink.mark_success(Manifest(number=1, run_id="old", accepted=()))
    made = dict(accept(sink, index, uri) for uri in "ab")
    manifest = publish(sink, index, Sight(None, (FP,)), "run")
    data = b"".join(encode({"name": n, **made[n].to_json()}).encode() + b"\n" for n in sorted(made))
    (segment,) = manifest.segments
    sha256 = hashlib.sha256(data).hexdigest()
    assert segment.name == f"_modalbatch/manifest-000001.0000-{sha256[:16]}.jsonl"
    assert (segment.sha256, segment.receipts, sink.store.read(segment.name)) == (sha256, 2, data)
    assert manifest == Manifest(
        number=1,
        run_id="run",
        accepted=(FP,),
        segments=(segment,),
        counts=made[min(made)].counts + made[max(made)].counts,
        n_receipts=2,
        part_bytes=2,
    )
    assert sink.newest() == manifest
    assert sink.success() is None
    assert sink.confirmed == [(1, 1)]
    assert publish(sink, Index(), Sight(manifest, (FP,)), "run").number == 2


def test_a_segment_is_full_after_so_many(sink, index, monkeypatch) -> None:
    monkeypatch.setattr("modalbatch.driver.publish.SEGMENT_RECEIPTS", 2)
    names = sorted(accept(sink, index, uri)[0] for uri in "abcde")
    manifest = publish(sink, index, Sight(None, (FP,)), "run")
    assert [segment.receipts for segment in manifest.segments] == [2, 2, 1]
    assert [segment.name[27:33] for segment in manifest.segments] == [".0000-", ".0001-", ".0002-"]
    assert [name for name, _ in sink.live(manifest)] == names


@pytest.mark.parametrize(("number", "why"), [(1, "another run published"), (None, "another run published first")])
def test_a_sink_that_moved(sink, index, number, why) -> None:
    accept(sink, index, "a")
    theirs = Manifest(number=1, run_id="other", accepted=())
    if number:
        sink.publish(theirs)
    else:
        sink.unmark_success = lambda: sink.publish(theirs)
    with pytest.raises(Moved, match=f"^{why}$"):
        publish(sink, index, Sight(None, (FP,)), "run")
    assert sink.newest() == theirs
    assert sink.confirmed == []


def test_others_manifests_are_seen_after_a_refresh(sink, index) -> None:
    sink.store.refresh = lambda: sink.publish(Manifest(number=1, run_id="other", accepted=()))
    with pytest.raises(Moved):
        publish(sink, index, Sight(None, (FP,)), "run")


@pytest.mark.parametrize("data", [None, b"longer"])
def test_a_part_that_is_not_there_any_more(sink, index, data) -> None:
    name, receipt = accept(sink, index, "a")
    accept(sink, index, "b")
    sink.store.delete([receipt.parts[0].name])
    if data:
        sink.store.memory.put(receipt.parts[0].name, data)
    with pytest.raises(Moved, match=f"^1 receipts of this run name parts that are gone, for example `{name}`$"):
        publish(sink, index, Sight(None, (FP,)), "run")
    assert sink.newest() is None


def test_with_nothing_new_the_old_one_is_confirmed(sink, index) -> None:
    accept(sink, index, "a")
    manifest = publish(sink, index, Sight(None, (FP,)), "run")
    again = Index()
    for name, receipt in sink.live(manifest):
        for part in receipt.parts:
            again.add_object(part.name, part.bytes)
        again.add_receipt(name)
        again.fill_receipt(name, receipt, live=True, accepted=True)
    again.choose()
    del sink.confirmed[:]
    assert publish(sink, again, Sight(manifest, (FP,)), "run") is manifest
    assert sink.confirmed == [(1, 1)]
    again.close()


def test_success_is_looked_at_after_a_refresh(sink) -> None:
    first, second = (Manifest(number=n, run_id="r", accepted=()) for n in (1, 2))
    sink.publish(first)
    assert mark_success(sink, first)
    assert sink.success()["manifest"] == 1
    sink.store.refresh = lambda: sink.publish(second)
    assert mark_success(sink, first) is False
    assert mark_success(sink, second) is True


def test_another_success_stays(sink) -> None:
    """Another run publishes and says so while ours is written."""
    first, second = (Manifest(number=n, run_id="r", accepted=()) for n in (1, 2))
    sink.publish(first)

    def replace(name: str, data: bytes) -> None:
        sink.store.memory.put(name, data)
        del sink.store.replace
        sink.publish(second)
        sink.mark_success(second)

    sink.store.replace = replace
    assert mark_success(sink, first) is False
    assert sink.success()["manifest"] == 2


@pytest.mark.parametrize("is_left", [True, False])
def test_our_success_goes_when_another_run_has_published(sink, is_left) -> None:
    first, second = (Manifest(number=n, run_id="r", accepted=()) for n in (1, 2))
    sink.publish(first)

    def replace(name: str, data: bytes) -> None:
        if is_left:
            sink.store.memory.put(name, data)
        sink.publish(second)

    sink.store.replace = replace
    assert mark_success(sink, first) is False
    assert sink.success() is None
