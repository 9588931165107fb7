"""Who decides which manifest counts where the last writer wins, and what is remembered of it."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path

import pytest

from memory_store import FP, Memory, MemoryStore, put_part
from modalbatch.driver.inventory import delete_all, take_inventory
from modalbatch.errors import NotFoundError, StateError
from modalbatch.names import decision_name, manifest_name, parse_decision_name
from modalbatch.records import Manifest
from modalbatch.sinks.attempts import AttemptSink, modal_arbiter


class Watched(MemoryStore):
    """Notes what is done, in order."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Memory(), folder)
        self.done: list[tuple[str, str]] = []

    def changed(self, verb: str, name: str) -> None:
        self.done.append((verb, name))

    def commit(self) -> None:
        self.done.append(("commit", ""))


class Arbiter:
    """A dict whose first put stands."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.asked: list[str] = []

    def __call__(self, key: str, value: str) -> str:
        self.asked.append(key)
        return self.entries.setdefault(key, value) if value else self.entries.get(key, "")


@pytest.fixture
def sink(tmp_path) -> AttemptSink:
    return AttemptSink(Watched(tmp_path), Arbiter())


def manifests() -> list[tuple[Manifest, str]]:
    """Two of one number, the one with the smaller hash first."""
    made = [Manifest(number=1, run_id=run_id, accepted=(FP,)) for run_id in "ab"]
    return sorted(((item, hashlib.sha256(item.to_bytes()).hexdigest()[:16]) for item in made), key=lambda pair: pair[1])


def write(sink: AttemptSink, manifest: Manifest, sha: str) -> None:
    sink.store.memory.put(manifest_name(manifest.number, sha), manifest.to_bytes())


def test_every_attempt_has_a_receipt_of_its_own(sink) -> None:
    mine, theirs = (put_part(sink, "u", letter * 32) for letter in "ab")
    assert sink.commit(mine) == mine
    assert sink.commit(theirs) == theirs
    assert sink.find(mine.split, FP, 1) is None
    names = [sink.receipt_name(mine.split, FP, 1, item.attempt) for item in (mine, theirs)]
    assert names[0] == f"_modalbatch/receipts/{mine.split}.ffffffff.g1/{'a' * 32}.json"
    assert [sink.read_receipt(name) for name in names] == [mine, theirs]


def test_the_first_to_publish_wins(sink) -> None:
    (_, _), (first, first_sha) = manifests()
    (second, second_sha), _ = manifests()
    assert sink.newest() is None
    assert sink.publish(first)
    name = manifest_name(1, first_sha)
    assert sink.store.done == [("commit", ""), ("create", name), ("commit", "")]
    del sink.store.done[:]
    assert sink.publish(second) is False
    loser = manifest_name(1, second_sha)
    assert sink.store.done[2:] == [("commit", ""), ("delete", loser), ("commit", "")]
    assert sink.newest() == first
    assert sink.store.stat(loser) is None


def test_without_an_arbiter_the_smallest_hash_counts(tmp_path) -> None:
    sink = AttemptSink(Watched(tmp_path), None)
    small, large = manifests()
    assert sink.publish(large[0])
    assert sink.newest() == large[0]
    assert sink.publish(small[0])
    assert sink.newest() == small[0]


def test_a_manifest_that_stands_alone_is_decided_by_who_reads_it(sink) -> None:
    """Its driver may have died before it asked."""
    small, large = manifests()
    write(sink, *large)
    assert sink.newest() == large[0]
    assert not sink.publish(small[0])
    assert sink.newest() == large[0]


def test_a_decision_outlives_the_arbiter(sink) -> None:
    small, large = manifests()
    assert sink.publish(large[0])
    sink.confirm(large[0])
    assert sink.store.done[-2:] == [("create", decision_name(1, large[1])), ("commit", "")]
    write(sink, *small)
    sink.arbiter.entries.clear()
    del sink.arbiter.asked[:]
    assert sink.newest() == large[0]
    assert sink.arbiter.asked == []


def test_what_was_decided_is_looked_for_again(sink) -> None:
    """A reload shows it."""
    small, large = manifests()
    assert sink.publish(large[0])
    data = sink.store.memory.objects.pop(manifest_name(1, large[1])).data
    write(sink, *small)
    sink.store.refresh = lambda: sink.store.memory.put(manifest_name(1, large[1]), data)
    assert sink.newest() == large[0]


def test_what_was_decided_and_is_gone_binds_nobody(sink) -> None:
    small, large = manifests()
    assert sink.publish(large[0])
    sink.store.memory.objects.pop(manifest_name(1, large[1]))
    write(sink, *small)
    assert sink.newest() == small[0]


def test_other_numbers_are_other_manifests(sink) -> None:
    small, _ = manifests()
    write(sink, *small)
    with pytest.raises(NotFoundError, match=r"^manifest 2 is gone$"):
        sink.manifest(2)
    sink.store.memory.put("_modalbatch/manifest-0000012-" + "0" * 16 + ".json", b"")
    assert sink.manifest(1) == small[0]


def test_an_altered_manifest(sink) -> None:
    small, _ = manifests()
    sink.store.memory.put(manifest_name(1, small[1]), small[0].to_bytes() + b" ")
    with pytest.raises(StateError, match=r"^manifest 1 of the sink was altered$"):
        sink.newest()


def test_a_key_is_of_one_sink(sink) -> None:
    small, _ = manifests()
    sink.publish(small[0])
    nonce = sink.claim({"format": 1, "name": "j"})["nonce"]
    sink.publish(small[0])
    assert sink.arbiter.asked == ["_modalbatch/manifest-1", f"{nonce}/_modalbatch/manifest-1"]


def test_decisions_are_ours(sink) -> None:
    small, _ = manifests()
    sink.confirm(small[0])
    name = f"_modalbatch/manifest-000001-{small[1]}.live"
    assert (decision_name(1, small[1]), parse_decision_name(name)) == (name, (1, small[1]))
    assert parse_decision_name(name + "x") is None
    assert take_inventory(sink).n_objects == {"decisions": 1}
    assert delete_all(sink) == 1


class Dict:
    """As much of `modal.Dict` as the arbiter uses; the real one: `tests/e2e/test_apply_elsewhere.py`."""

    found: dict[str, Dict] = {}

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    @classmethod
    def from_name(cls, name: str, *, create_if_missing: bool) -> Dict:
        assert create_if_missing
        return cls.found.setdefault(name, cls())

    def put(self, key: str, value: str, *, skip_if_exists: bool) -> bool:
        assert skip_if_exists
        self.entries.setdefault(key, value)
        return True

    def get(self, key: str) -> str | None:
        return self.entries.get(key)


def test_the_arbiter_is_a_dict_of_modals(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "modal", types.SimpleNamespace(Dict=Dict))
    arbitrate = modal_arbiter("volume://v/out/")
    assert [arbitrate("k", "a"), arbitrate("k", "b"), arbitrate("l", "b")] == ["a", "a", "b"]
    assert Dict.found["modalbatch-arbiter"].entries == {"volume://v/out/k": "a", "volume://v/out/l": "b"}


def test_a_hint_goes_beside_the_volume(sink) -> None:
    """Workers see each other's files late or not at all."""
    name = "_modalbatch/runs/r/divide-x"
    assert not sink.has_note(name)
    sink.put_note(name)
    assert sink.has_note(name)
    assert sink.store.done == []


def test_without_an_arbiter_a_hint_is_a_file(tmp_path: Path) -> None:
    sink = AttemptSink(Watched(tmp_path), None)
    name = "_modalbatch/runs/r/divide-x"
    assert not sink.has_note(name)
    sink.put_note(name)
    assert sink.has_note(name)
    assert sink.store.done == [("replace", name)]


def test_asking_the_arbiter_decides_nothing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "modal", types.SimpleNamespace(Dict=Dict))
    arbitrate = modal_arbiter("volume://asked/")
    assert [arbitrate("k", ""), arbitrate("k", "a"), arbitrate("k", "")] == ["", "a", "a"]
