"""What counts as done at planning, what a manifest retires, and which generation comes next."""

from __future__ import annotations

import pytest

from memory_store import FP, Memory, MemoryStore, names, put_part
from modalbatch.driver.gone import settle_removed
from modalbatch.driver.index import Index
from modalbatch.driver.plan import Packing, SplitMaker, enumerate_missing, read_sink
from modalbatch.driver.publish import Moved, publish
from modalbatch.names import receipt_name
from modalbatch.records import Receipt, Unit
from modalbatch.sinks.objects import ObjectSink

OTHER = "e" * 64


class Inputs:
    def __init__(self, *uris: str) -> None:
        self.uris = uris

    def units(self):
        for uri in self.uris:
            yield Unit(uri, "1", "", 0, 10, False)


@pytest.fixture
def sink(tmp_path) -> ObjectSink:
    return ObjectSink(MemoryStore(Memory(), tmp_path))


@pytest.fixture
def index():
    index = Index()
    yield index
    index.close()


def receipt(sink: ObjectSink, uri: str, attempt: str = "a" * 32, **fields) -> Receipt:
    found = put_part(sink, uri, attempt)
    return sink.commit(Receipt(**{name: getattr(found, name) for name in found.__slots__} | fields))


def plan(sink: ObjectSink, *uris: str, fingerprint: str = FP, keep: bool = False, on_removed: str = "keep"):
    index = Index()
    sight = read_sink(sink, index, fingerprint, keep=keep)
    missing = [unit.uri for unit in enumerate_missing(Inputs(*uris), index)]
    settle_removed(index, on_removed)
    return index, sight, missing


def generation(index: Index, sight, uri: str) -> int:
    maker = SplitMaker(
        fingerprint=FP, run_id="r", roots={}, index=index, generation=sight.generation, containers=1, packing=Packing()
    )
    return maker.split([Unit(uri, "1", "", 0, 10, False)]).generation


def live(sink: ObjectSink) -> list[str]:
    return sorted(unit.uri for _, item in sink.live(sink.newest()) for unit in item.units)


def test_done_is_a_receipt_with_its_parts(sink) -> None:
    receipt(sink, "a")
    gone = receipt(sink, "b")
    sink.delete([gone.parts[0].name])
    index, sight, missing = plan(sink, "a", "b", "c")
    assert missing == ["b", "c"]
    assert (generation(index, sight, "b"), generation(index, sight, "c")) == (2, 1)


def test_a_part_of_another_size_is_no_part(sink) -> None:
    short = receipt(sink, "a")
    sink.store.memory.put(short.parts[0].name, b"")
    assert plan(sink, "a")[2] == ["a"]


def test_a_manifest_retires_every_receipt_it_saw_and_does_not_list(sink) -> None:
    receipt(sink, "a")
    old = receipt(sink, "a", "b" * 32, fingerprint=OTHER)
    index, sight, _ = plan(sink, "a")
    manifest = publish(sink, index, sight, "r")
    assert manifest.retired == (receipt_name(old.split, OTHER, 1),)
    assert live(sink) == ["a"]


def test_a_retired_receipt_is_void_under_its_fingerprint_too(sink) -> None:
    old = receipt(sink, "a", fingerprint=OTHER)
    receipt(sink, "a", "b" * 32)
    publish(sink, *plan(sink, "a")[:2], "r")
    assert plan(sink, "a", fingerprint=OTHER)[2] == ["a"]
    assert receipt_name(old.split, OTHER, 1) in names(sink)


def test_a_retired_name_is_not_used_again_after_it_was_deleted(sink) -> None:
    """Its sweeper may be slow: it would delete the new receipt of that name."""
    first = receipt(sink, "a", generation=3)
    receipt(sink, "b")
    index, sight, _ = plan(sink, "b", on_removed="drop")
    manifest = publish(sink, index, sight, "r")
    assert manifest.retired == (receipt_name(first.split, FP, 3),)
    sink.delete(manifest.retired)
    index, sight, missing = plan(sink, "a", "b")
    assert missing == ["a"]
    assert (sight.generation, generation(index, sight, "a")) == (2, 4)


def test_an_input_that_is_gone_keeps_what_was_live_and_only_that(sink) -> None:
    receipt(sink, "a")
    receipt(sink, "b")
    publish(sink, *plan(sink, "a", "b")[:2], "r")
    receipt(sink, "c", generation=2)  # a dead run's, of an input that is gone now
    index, sight, _ = plan(sink, "a")
    manifest = publish(sink, index, sight, "r")
    assert live(sink) == ["a", "b"]
    assert [name.split("/")[-1].split(".")[2] for name in manifest.retired] == ["g2"]


def test_on_removed_drop(sink) -> None:
    receipt(sink, "a")
    receipt(sink, "b")
    publish(sink, *plan(sink, "a", "b")[:2], "r")
    index, sight, _ = plan(sink, "a", on_removed="drop")
    assert len(publish(sink, index, sight, "r").retired) == 1
    assert live(sink) == ["a"]


def test_what_an_older_handler_made_of_an_input_that_is_gone_stays(sink) -> None:
    receipt(sink, "a", fingerprint=OTHER)
    receipt(sink, "b", fingerprint=OTHER)
    publish(sink, *plan(sink, "a", "b", fingerprint=OTHER)[:2], "r")
    receipt(sink, "a", "b" * 32, generation=2)
    publish(sink, *plan(sink, "a")[:2], "r")
    assert live(sink) == ["a", "b"]


def test_a_pack_with_a_changed_input_is_given_up_whole(sink) -> None:
    units = tuple(Unit(uri, "1", "", 0, 10, False) for uri in "ab")
    receipt(sink, "pack", units=units)
    changed = Unit("b", "2", "", 0, 10, False)
    index = Index()
    sight = read_sink(sink, index, FP, keep=False)

    class Changed:
        def units(self):
            yield units[0]
            yield changed

    assert [unit.uri for unit in enumerate_missing(Changed(), index)] == ["b"]
    settle_removed(index, "keep")
    assert [unit.uri for unit in index.missing()] == ["a", "b"]
    assert sight.generation == 1


def test_what_a_run_that_died_did_in_place_of_a_pack_is_not_done_again(sink) -> None:
    """It was done while the pack was still live, for an input of it that had changed."""
    a, b, changed = (Unit(uri, state, "", 0, 10, False) for uri, state in (("a", "1"), ("b", "1"), ("b", "2")))
    pack = receipt(sink, "pack", units=(a, b))
    index, sight, _ = plan(sink, "a", "b")
    publish(sink, index, sight, "r")
    assert live(sink) == ["a", "b"]
    for unit, attempt in ((a, "c" * 32), (changed, "d" * 32)):
        receipt(sink, f"{unit.uri} again", attempt, split=unit.id, units=(unit,), generation=2)
    index = Index()
    sight = read_sink(sink, index, FP, keep=False)

    class Source:
        def units(self):
            return iter((a, changed))

    assert list(enumerate_missing(Source(), index)) == []
    settle_removed(index, "keep")
    assert (index.n_missing(), list(index.missing())) == (0, [])
    manifest = publish(sink, index, sight, "s")
    assert live(sink) == ["a", "b"]
    assert receipt_name(pack.split, FP, 1) in manifest.retired
    index.close()


def test_nothing_new_writes_no_manifest(sink) -> None:
    receipt(sink, "a")
    first = publish(sink, *plan(sink, "a")[:2], "r")
    before = names(sink)
    assert publish(sink, *plan(sink, "a")[:2], "later") == first
    assert names(sink) == before


def test_segments_that_lost_nothing_are_listed_again(sink) -> None:
    receipt(sink, "a")
    first = publish(sink, *plan(sink, "a")[:2], "r")
    receipt(sink, "b", generation=2)
    second = publish(sink, *plan(sink, "a", "b")[:2], "r")
    assert second.segments[0] == first.segments[0]
    assert len(second.segments) == 2
    third = publish(sink, *plan(sink, "b", on_removed="drop")[:2], "r")
    assert third.segments == second.segments[1:]


def test_two_plans_of_one_state_publish_once(sink) -> None:
    receipt(sink, "a")
    one, two = plan(sink, "a"), plan(sink, "a")
    publish(sink, *one[:2], "r")
    with pytest.raises(Moved, match="another run published"):
        publish(sink, *two[:2], "r")


def test_keep_counts_results_of_the_accepted_fingerprints(sink) -> None:
    receipt(sink, "a", fingerprint=OTHER)
    publish(sink, *plan(sink, "a", fingerprint=OTHER)[:2], "r")
    assert plan(sink, "a")[2] == ["a"]
    index, sight, missing = plan(sink, "a", keep=True)
    assert missing == []
    assert publish(sink, index, sight, "r").accepted == tuple(sorted([FP, OTHER]))
    assert plan(sink, "a")[2] == []


def test_a_retired_receipt_that_a_late_attempt_writes_again_stays_void(sink) -> None:
    """A slow sweep of the manifest that retired it would delete it under a manifest that lists it."""
    old = receipt(sink, "a")
    receipt(sink, "b")
    retiring = publish(sink, *plan(sink, "b", on_removed="drop")[:2], "r")
    sink.delete([*retiring.retired, old.parts[0].name])
    receipt(sink, "c", generation=2)
    forgetting = publish(sink, *plan(sink, "b", "c")[:2], "r")
    assert (forgetting.retired, forgetting.extra) == ((), {"void": {FP[:8]: 1}})
    receipt(sink, "a", "b" * 32)
    index, sight, missing = plan(sink, "a", "b", "c")
    assert missing == ["a"]
    assert generation(index, sight, "a") == 3
    # What another run did meanwhile in a later generation counts.
    receipt(sink, "d", generation=2)
    assert plan(sink, "a", "b", "c", "d")[2] == ["a"]
