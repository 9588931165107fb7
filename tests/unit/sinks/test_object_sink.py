"""Names, commit points and readings of a sink on a store with conditional create."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from memory_store import FP, Memory, MemoryStore, put_part
from modalbatch.canonical import encode
from modalbatch.errors import NotFoundError, StateError
from modalbatch.names import OWNER, SUCCESS, manifest_name, segment_name
from modalbatch.records import Manifest, Segment
from modalbatch.sinks.objects import ObjectSink

MANIFEST = Manifest(number=1, run_id="r", accepted=(FP,))


class Counted(MemoryStore):
    """Counts commits."""

    n_commits = 0

    def commit(self) -> None:
        self.n_commits += 1


@pytest.fixture
def sink(tmp_path) -> ObjectSink:
    return ObjectSink(Counted(Memory(), tmp_path))


def test_the_owner_is_the_first_to_claim(sink) -> None:
    assert sink.owner() is None
    first = sink.claim({"format": 1, "name": "a"})
    assert (first["name"], len(first["nonce"])) == ("a", 16)
    assert sink.claim({"format": 1, "name": "b"}) == first == sink.owner()
    assert first["nonce"] != ObjectSink(MemoryStore(Memory(), sink.store.spool_dir())).claim({"format": 1})["nonce"]


def test_an_owner_that_comes_and_goes(sink) -> None:
    sink.store.create = lambda name, data: False
    with pytest.raises(StateError, match=r"^owner.json of the sink comes and goes$"):
        sink.claim({"format": 1, "name": "a"})


def test_an_altered_owner(sink) -> None:
    sink.store.memory.put(OWNER, b"{}")
    with pytest.raises(StateError, match=r"^this sink's owner\.json has format None"):
        sink.owner()


def test_one_receipt_stands(sink) -> None:
    mine, theirs = (put_part(sink, "u", letter * 32) for letter in "ab")
    assert sink.find(mine.split, FP, 1) is None
    assert sink.commit(mine) == mine == sink.commit(mine)
    assert sink.store.n_commits == 2
    assert sink.commit(theirs) == mine == sink.find(mine.split, FP, 1)
    assert sink.store.n_commits == 2
    name = sink.receipt_name(mine.split, FP, 1, mine.attempt)
    assert name == sink.receipt_name(mine.split, FP, 1, theirs.attempt)
    assert sink.read_receipt(name) == mine
    assert sink.read_receipt(name + "x") is None


def test_parts_are_published(sink) -> None:
    receipt = put_part(sink, "u")
    sink.store.delete([receipt.parts[0].name])
    path = sink.store.spool_dir() / "part"
    path.write_bytes(b"u")
    sink.put(path, receipt.parts[0])
    assert sink.store.read(receipt.parts[0].name) == b"u"
    sink.delete([receipt.parts[0].name])
    assert sink.store.stat(receipt.parts[0].name) is None


def test_the_newest_manifest(sink) -> None:
    assert (sink.newest(), sink.newest_number()) == (None, 0)
    for number in (1, 3, 2):
        assert sink.publish(replace(MANIFEST, number=number))
    assert sink.store.n_commits == 3
    sink.store.memory.put("_modalbatch/manifest-000009.0000-" + "0" * 16 + ".jsonl", b"")
    assert (sink.newest(), sink.newest_number()) == (replace(MANIFEST, number=3), 3)
    assert sink.manifest(2).number == 2
    assert not sink.publish(replace(MANIFEST, number=3, run_id="other"))
    assert sink.newest().run_id == "r"
    assert sink.manifest_bytes(1) == MANIFEST.to_bytes()
    assert sink.confirm(MANIFEST) is None
    with pytest.raises(NotFoundError):
        sink.manifest(4)


def test_segments_hold_what_is_live(sink) -> None:
    receipts = {f"name-{uri}": put_part(sink, uri) for uri in "uv"}
    data = b"".join(encode({"name": n, **r.to_json()}).encode() + b"\n" for n, r in receipts.items())
    sha256 = hashlib.sha256(data).hexdigest()
    name = segment_name(1, 0, sha256)
    segment = Segment(name=name, sha256=sha256, receipts=2)
    assert list(sink.live(None)) == []
    with pytest.raises(StateError, match=rf"^`{name}` of the manifest is missing$"):
        sink.segment(segment)
    sink.write_segment(name, data)
    sink.write_segment(name, data)
    assert dict(sink.live(replace(MANIFEST, segments=(segment,)))) == receipts
    with pytest.raises(StateError, match=rf"^`{name}` of the sink was altered$"):
        sink.write_segment(name, b"")
    sink.store.memory.put(name, data + b"\n")
    with pytest.raises(StateError, match=rf"^`{name}` of the manifest was altered$"):
        sink.segment(segment)


def test_success(sink) -> None:
    assert sink.success() is None
    sink.unmark_success()
    assert sink.store.n_commits == 0
    sink.mark_success(MANIFEST)
    expected = {"manifest": 1, "sha256": hashlib.sha256(MANIFEST.to_bytes()).hexdigest()}
    assert sink.success() == expected == json.loads(sink.store.read(SUCCESS))
    assert sink.store.n_commits == 1
    sink.mark_success(replace(MANIFEST, number=2))
    assert sink.success()["manifest"] == 2
    sink.unmark_success()
    assert (sink.success(), sink.store.n_commits) == (None, 3)


def test_refresh_is_the_stores(sink) -> None:
    heard = []
    sink.store.refresh = lambda: heard.append(1)
    sink.refresh()
    assert heard == [1]


def test_names(sink) -> None:
    sink.publish(MANIFEST)
    assert manifest_name(1) == "_modalbatch/manifest-000001.json"
    assert sink.store.stat(manifest_name(1))
