"""What every object store makes of a network and a server that fail. A test class inherits it and gives a `wire`."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from fault_proxy import FaultProxy
from modalbatch.errors import InputChangedError, ModalbatchError, NotFoundError, StateError, UnavailableError
from modalbatch.stores import Store


@dataclass(kw_only=True)
class Wire:
    """A store behind a proxy, and what its protocol calls things."""

    #: Through the proxy; keywords of its class.
    open: Callable[..., Store]
    #: The same objects, past the proxy.
    behind: Store
    proxy: FaultProxy
    #: Method of a create, and what in the path of a request tells the second page of a listing.
    create: str
    next_page: str
    #: In the path of a request for an object's bytes.
    media: str
    #: Header or parameter of a conditional create.
    condition: str
    #: Status, code and message of answers.
    taken: dict[str, object]
    conflict: dict[str, object]
    busy: dict[str, object]
    expired: dict[str, object]
    no_container: dict[str, object]

    def __post_init__(self) -> None:
        self.slept: list[float] = []
        self.store = self.open(sleep=self.slept.append)

    def answer(self, what: dict[str, object], **where: object):
        """The proxy answers instead of the server."""
        return self.proxy.add("status", **what, **where)


DATA = random.Random(1).randbytes(3_000_000)


def put_file(store: Store, name: str, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    store.put_file(name, path, hashlib.sha256(data).hexdigest())


class FaultSuite:
    # -- creation

    def test_a_lost_reply_is_our_own_success(self, wire: Wire) -> None:
        """F37: the create was carried out, its reply is lost, the client's second try is refused: it is ours."""
        wire.proxy.add("lose_reply", method=wire.create)
        assert wire.store.create("r", b"mine") is True
        assert wire.behind.read("r") == b"mine"

    def test_a_lost_reply_to_anothers_refusal(self, wire: Wire) -> None:
        """F37: what stands is another's, whatever got lost."""
        assert wire.behind.create("r", b"theirs")
        wire.proxy.add("lose_reply", method=wire.create)
        assert wire.store.create("r", b"mine") is False

    def test_a_conflict_is_tried_again(self, wire: Wire) -> None:
        """F38: nothing landed; not to be taken for another's object."""
        fault = wire.answer(wire.conflict, method=wire.create, times=2)
        assert wire.store.create("r", b"mine") is True
        assert fault.n_hits == 2
        assert wire.behind.read("r") == b"mine"

    def test_conflicts_without_end_are_settled_by_reading(self, wire: Wire) -> None:
        """F38: with a conflict to each try, what stands decides."""
        assert wire.behind.create("theirs", b"theirs")
        wire.answer(wire.conflict, method=wire.create, times=None)
        assert wire.store.create("theirs", b"mine") is False
        with pytest.raises(UnavailableError, match=r"cannot write `.*nobodys`"):
            wire.store.create("nobodys", b"mine")

    def test_a_refusal_by_what_is_gone_again(self, wire: Wire) -> None:
        """412, and by the time of the look there is nothing: another try."""
        wire.answer(wire.taken, method=wire.create)
        assert wire.store.create("r", b"mine") is True
        assert wire.behind.read("r") == b"mine"

    def test_one_of_many_wins_though_replies_are_lost(self, wire: Wire) -> None:
        """F29: eight writers of each name, every fourth request of the first ones loses its reply: one winner."""
        names = [f"race/{n}" for n in range(5)]
        for _ in range(10):
            wire.proxy.add("lose_reply", method=wire.create)
        tokens = [uuid.uuid4().hex.encode() for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            for name in names:
                won = list(pool.map(lambda token, name=name: wire.store.create(name, token), tokens))
                assert won.count(True) == 1
                assert wire.behind.read(name) == tokens[won.index(True)]

    # -- a busy or broken server

    @pytest.mark.parametrize("kind", ["error", "busy", "reset", "half"])
    def test_trouble_that_passes(self, wire: Wire, kind: str, tmp_path: Path) -> None:
        """F33 F34 F36: 500, SlowDown, a reset connection, one that breaks inside the body: tried again."""

        def trouble() -> None:
            if kind in ("error", "busy"):
                wire.answer({"status": 500, "code": "InternalError"} if kind == "error" else wire.busy)
            else:
                wire.proxy.add(kind)

        steps: list[Callable[[], object]] = [
            lambda: wire.store.create("r", b"mine"),
            lambda: wire.store.replace("_SUCCESS", b"{}"),
            lambda: put_file(wire.store, "part", tmp_path / "part", b"data"),
            lambda: wire.store.read("r"),
            lambda: wire.store.stat("r"),
            lambda: list(wire.store.list()),
            lambda: wire.store.delete(["_SUCCESS"]),
        ]
        answers = []
        for step in steps:
            trouble()
            answers.append(step())
        assert all(fault.n_hits == 1 for fault in wire.proxy.faults)
        assert (answers[0], answers[3]) == (True, b"mine")
        assert {entry.name: entry.size_bytes for entry in wire.behind.list()} == {"part": 4, "r": 4}

    @pytest.mark.parametrize("kind", ["error", "gone"])
    def test_trouble_that_stays(self, wire: Wire, kind: str, tmp_path: Path) -> None:
        """F35: 500 for ever, or no server at all: try again later, and nothing half-written."""
        wire.behind.replace("there", b"1")
        path = tmp_path / "part"
        path.write_bytes(b"data")
        if kind == "error":
            fault = wire.answer({"status": 500, "code": "InternalError"}, times=None)
        else:
            wire.proxy.close()
        steps: list[Callable[[], object]] = [
            lambda: wire.store.create("r", b"mine"),
            lambda: wire.store.put_file("part", path, hashlib.sha256(b"data").hexdigest()),
            lambda: wire.store.read("there"),
            lambda: wire.store.stat("there"),
            lambda: list(wire.store.list()),
            lambda: wire.store.delete(["there"]),
        ]
        for step in steps:
            with pytest.raises(UnavailableError, match=r"^cannot (write|read|list|delete) `[^\n]*$") as caught:
                step()
            assert (caught.value.exit_code, caught.value.hint) == (75, "check the network and `endpoint_url`")
        assert [entry.name for entry in wire.behind.list()] == ["there"]
        assert path.read_bytes() == b"data"
        if kind == "error":
            fault.times = 0
            assert wire.store.create("r", b"mine") is True

    def test_an_answer_that_never_comes(self, wire: Wire) -> None:
        """F41: a server that stalls is given up, and asked again."""
        store = wire.open(timeout_s=0.3)
        fault = wire.proxy.add("hold", method=wire.create)
        assert store.create("r", b"mine") is True
        assert fault.n_hits == 1
        wire.proxy.add("hold", method="GET")
        assert store.read("r") == b"mine"

    def test_an_answer_that_drips(self, wire: Wire) -> None:
        """F41: slow is not broken."""
        wire.behind.replace("blob", DATA[:2000])
        wire.proxy.add("drip", times=None)
        assert wire.store.read("blob") == DATA[:2000]

    # -- bodies

    def test_a_cut_body_is_joined(self, wire: Wire) -> None:
        """F40: the rest is asked for again, of the same object."""
        wire.behind.replace("blob", DATA)
        entry = wire.behind.stat("blob")
        assert entry
        wire.proxy.add("cut", method="GET", path=wire.media, after_bytes=100_003)
        with wire.store.open("blob", start=10, end=2_900_000, pin=entry.pin) as stream:
            assert stream.read() == DATA[10:2_900_000]

    def test_an_object_overwritten_meanwhile_is_never_spliced(self, wire: Wire) -> None:
        """F48: a connection breaks, another object has taken the name: refused."""
        wire.behind.replace("blob", b"a" * 3_000_000)
        entry = wire.behind.stat("blob")
        assert entry
        wire.proxy.add(
            "cut", method="GET", path=wire.media, after_bytes=200_000,
            meanwhile=lambda: wire.behind.replace("blob", b"b" * 3_000_000),
        )  # fmt: skip
        with pytest.raises(InputChangedError, match="blob` changed after it was listed"):
            with wire.store.open("blob", pin=entry.pin) as stream:
                stream.read()

    def test_an_answer_that_says_less_than_there_is(self, wire: Wire) -> None:
        """F40: a body cut short under a length of its own is asked for again, and never taken for the whole."""
        wire.behind.replace("blob", DATA)
        entry = wire.behind.stat("blob")
        assert entry
        fault = wire.proxy.add("shorten", method="GET", path=wire.media, after_bytes=1000)
        with wire.store.open("blob", pin=entry.pin) as stream:
            assert stream.read() == DATA
        assert fault.n_hits == 1
        fault.times, fault.after_bytes = None, 1_000_000
        try:
            with wire.store.open("blob", pin=entry.pin) as stream:
                assert stream.read() == DATA
        except UnavailableError as error:
            assert error.message == f"cannot read `{wire.store.uri}blob`: it is cut short on the way"

    def test_a_body_that_changes_on_the_way_is_not_stored(self, wire: Wire, tmp_path: Path) -> None:
        """F39: the store compares what it got with what was sent; what stands is right, or nothing does."""
        wire.proxy.add("alter", method="PUT", path="part")
        wire.proxy.add("alter", method="POST", path="upload")
        try:
            put_file(wire.store, "part", tmp_path / "part", b"data")
        except UnavailableError:
            assert wire.behind.stat("part") is None
            assert (tmp_path / "part").read_bytes() == b"data"
            wire.proxy.faults.clear()
            put_file(wire.store, "part", tmp_path / "part", b"data")
        assert wire.behind.read("part") == b"data"

    def test_half_a_body_is_not_stored(self, wire: Wire, tmp_path: Path) -> None:
        """F36: connections that break inside each body: nothing is visible, and the file is still there."""
        wire.proxy.add("half", times=None)
        with pytest.raises(UnavailableError, match="cannot write"):
            put_file(wire.store, "part", tmp_path / "part", DATA)
        wire.proxy.faults.clear()
        assert list(wire.behind.list()) == []
        put_file(wire.store, "part", tmp_path / "part", DATA)
        assert wire.behind.read("part") == DATA

    # -- listings

    def test_a_page_that_fails_is_asked_again(self, wire: Wire) -> None:
        """F42: a page, then 500, then the rest."""
        names = [f"{n:02}" for n in range(10)]
        for name in names:
            wire.behind.replace(name, b"")
        store = wire.open(page_count=3, sleep=wire.slept.append)
        fault = wire.answer({"status": 500, "code": "InternalError"}, method="GET", path=wire.next_page)
        assert [entry.name for entry in store.list()] == names
        assert fault.n_hits == 1

    def test_a_listing_is_never_short(self, wire: Wire) -> None:
        """F42: a page, then 500 for ever: an error, not what there was until then."""
        for n in range(10):
            wire.behind.replace(f"{n:02}", b"")
        store = wire.open(page_count=3, sleep=wire.slept.append)
        wire.answer({"status": 500, "code": "InternalError"}, method="GET", path=wire.next_page, times=None)
        with pytest.raises(UnavailableError, match="cannot list"):
            list(store.list())

    # -- access

    def test_denied_where_receipts_stand(self, wire: Wire) -> None:
        """F43: known by the probe, before anything was computed."""
        wire.answer({**wire.expired, "code": "AccessDenied"}, path="receipts", times=None)
        with pytest.raises(
            UnavailableError, match=r"access denied: cannot (write|read) `.*_modalbatch/receipts/probe-"
        ):
            wire.store.probe()
        assert wire.store.create("elsewhere", b"1")

    def test_credentials_that_expire(self, wire: Wire) -> None:
        """F44: said at once, for every operation."""
        wire.behind.replace("there", b"1")
        wire.answer(wire.expired, times=None)
        steps: list[Callable[[], object]] = [
            lambda: wire.store.create("r", b"mine"),
            lambda: wire.store.replace("r", b"mine"),
            lambda: wire.store.read("there"),
            lambda: wire.store.stat("there"),
            lambda: list(wire.store.list()),
            lambda: wire.store.delete(["there"]),
        ]
        for step in steps:
            with pytest.raises(UnavailableError, match=r"^access denied: cannot \w+ `.*`") as caught:
                step()
            assert caught.value.hint.startswith("check the credentials")
        assert wire.slept == []

    def test_a_store_that_ignores_the_condition(self, wire: Wire) -> None:
        """F45: refused by the probe; without the condition nothing is asked, and what is seen is not overwritten."""
        wire.proxy.add("strip", method=wire.create, header=wire.condition, times=None)
        with pytest.raises(StateError) as caught:
            wire.store.probe()
        assert caught.value.message == (
            f"`{wire.store.uri}` overwrites objects that must be written once: it ignores `{wire.condition}`"
        )
        assert caught.value.hint == "set `delivery: at_least_once`, or use a store with conditional writes"
        assert list(wire.behind.list()) == []
        plain = wire.open(is_conditional=False)
        assert not plain.has_conditional_create
        assert [plain.create("r", b"1"), plain.create("r", b"1"), plain.create("r", b"2")] == [True, True, False]
        assert wire.behind.read("r") == b"1"

    def test_a_container_that_is_gone(self, wire: Wire) -> None:
        """F46: every operation says it in the same words, none says that an object is missing."""
        wire.answer(wire.no_container, times=None)
        steps: list[Callable[[], object]] = [
            lambda: wire.store.create("r", b"mine"),
            lambda: wire.store.replace("r", b"mine"),
            lambda: wire.store.read("there"),
            lambda: list(wire.store.list()),
            lambda: wire.store.delete(["there"]),
        ]
        for step in steps:
            with pytest.raises(UnavailableError, match=r"^the (bucket|container) `[\w-]+` does not exist"):
                step()

    def test_an_object_that_is_gone(self, wire: Wire) -> None:
        """F47: said by its name; deleting it again is fine."""
        with pytest.raises(NotFoundError, match="absent` does not exist"):
            wire.store.open("absent", start=0, end=10, pin="1")
        wire.store.delete(["absent"])

    def test_an_error_is_one_line(self, wire: Wire) -> None:
        """Whatever a server says: one line for a person, and a hint."""
        wire.answer({"status": 400, "code": "Strange", "message": "first\nsecond"}, times=None)
        with pytest.raises(ModalbatchError) as caught:
            wire.store.replace("r", b"mine")
        assert "\n" not in caught.value.message
        assert caught.value.hint
