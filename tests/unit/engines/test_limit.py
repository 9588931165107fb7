"""Modal's limits on what is submitted, kept and named."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from modalbatch.engines.local.calls.call import Call
from modalbatch.engines.local.calls.caller import CallerWatch
from modalbatch.engines.local.calls.limit import Gate
from modalbatch.engines.local.calls.retention import Retention
from modalbatch.engines.local.calls.waiting import Waiting
from modalbatch.engines.local.containers.crash import CrashLoop
from modalbatch.engines.local.name import check_environment, check_name
from modalbatch.engines.local.schedules.clock import Clock
from modalbatch.engines.local.storage.blob import BlobServer
from modalbatch.engines.local.store import Store

_DAY_S = 86_400.0


def _clock() -> Clock:
    """A clock that moves only when it is put ahead."""
    return Clock(lambda: 1_000_000.0, lambda: 5.0)


@dataclass
class _Pool:
    """How busy a function is."""

    n_pending: int = 0
    n_pending_sync: int = 0
    n_running: int = 0


def _items(n: int, n_bytes: int = 1) -> list[api_pb2.FunctionPutInputsItem]:
    return [api_pb2.FunctionPutInputsItem(input=api_pb2.FunctionInput(args=b"x" * n_bytes))] * n


def _refusal(gate: Gate, n: int, *, is_sync: bool, n_bytes: int = 1) -> GRPCError | None:
    try:
        gate.admit(_items(n, n_bytes), is_sync=is_sync)
    except GRPCError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("pool", "is_sync", "told"),
    [
        (
            _Pool(n_pending=2_000, n_pending_sync=2_000),
            True,
            "inputs that wait for a container: more than 2000",
        ),
        (_Pool(n_pending=1_999, n_pending_sync=1_999), True, None),
        (_Pool(n_pending=1_500, n_pending_sync=1_500, n_running=23_500), True, "that wait or run: more than 25000"),
        (_Pool(n_pending=9_000, n_pending_sync=0), True, None),
        (_Pool(n_pending=1_002_000, n_pending_sync=2_000), False, "spawned inputs that wait: more than 1000000"),
        (_Pool(n_pending=1_001_999, n_pending_sync=2_000), False, None),
    ],
)
def test_a_full_queue_is_refused_without_a_time_to_wait(pool, is_sync, told):
    refusal = _refusal(Gate("f", pool, _clock().monotonic), 1, is_sync=is_sync)
    assert (refusal is None) == (told is None)
    if refusal is not None:
        assert refusal.status is Status.RESOURCE_EXHAUSTED
        assert told in str(refusal.message)
        assert refusal.details is None


@pytest.mark.parametrize(("is_sync", "rate"), [(True, 200), (False, 1_500)])
def test_who_is_too_fast_is_told_how_long_to_wait(is_sync, rate):
    async def submit():
        clock = _clock()
        gate = Gate("f", _Pool(), clock.monotonic)
        assert _refusal(gate, 5 * rate, is_sync=is_sync) is None
        refusal = _refusal(gate, rate // 2, is_sync=is_sync)
        assert refusal is not None
        assert refusal.message == f"function `f` takes {rate} inputs per second"
        assert refusal.details[0].retry_after_secs == pytest.approx(0.5)
        clock.advance(0.5)
        assert _refusal(gate, rate // 2, is_sync=is_sync) is None
        assert _refusal(gate, 1, is_sync=is_sync) is not None
        assert _refusal(gate, 1, is_sync=not is_sync) is None
        clock.advance(60)
        assert _refusal(gate, 9 * rate, is_sync=is_sync) is None, "a large request passes when nothing came before"
        assert _refusal(gate, 1, is_sync=is_sync).details[0].retry_after_secs == pytest.approx(4 + 1 / rate)

    asyncio.run(submit())


@pytest.mark.parametrize(("is_sync", "most"), [(True, 2 << 20), (False, 8 << 10)])
def test_large_arguments_must_be_blobs(is_sync, most):
    gate = Gate("f", _Pool(), _clock().monotonic)
    assert _refusal(gate, 1, is_sync=is_sync, n_bytes=most) is None
    refusal = _refusal(gate, 1, is_sync=is_sync, n_bytes=most + 1)
    assert refusal.status is Status.INVALID_ARGUMENT
    assert refusal.message == (
        f"an input of `f` has {most + 1} bytes of arguments in its request: more than {most} must be uploaded as a blob"
    )


def test_waiting_inputs_are_counted_by_kind():
    waiting = Waiting()
    calls = [Call(f"fc-{n}", SimpleNamespace(), n < 2, True) for n in range(3)]
    items = [call.add(idx, None) for call in calls for idx in range(2)]
    for item in items[1:]:
        waiting.append(item)
    waiting.appendleft(items[0])
    assert (len(waiting), waiting.n_sync) == (6, 4)
    assert waiting.popleft() is items[0]
    assert waiting.take(calls[0]) == [items[1]]
    assert (len(waiting), waiting.n_sync) == (4, 2)
    assert waiting.take() == items[2:]
    assert (len(waiting), waiting.n_sync) == (0, 0)


def test_failed_starts_pause_longer_and_longer():
    async def fail():
        clock, resumed = _clock(), []
        loop = CrashLoop(clock, lambda: resumed.append(clock.monotonic()))
        assert not loop.fail(is_start=True, is_deployed=True)
        assert loop.fail(is_start=True, is_deployed=True)
        pauses = [loop.pause() for _ in range(8)]
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
        clock.advance(59)
        assert loop.is_pausing
        clock.advance(1)
        assert not loop.is_pausing
        assert resumed[-1] == clock.monotonic()
        loop.start()
        assert not loop.fail(is_start=True, is_deployed=True)
        assert loop.pause() == 1

    asyncio.run(fail())


@pytest.mark.parametrize(("is_deployed", "most"), [(True, 2), (False, 8)])
def test_containers_that_die_at_work_are_counted_until_a_result(is_deployed, most):
    loop = CrashLoop(_clock(), lambda: None)
    for _ in range(most - 1):
        assert not loop.fail(is_start=False, is_deployed=is_deployed)
        loop.start()
    loop.succeed()
    told = [loop.fail(is_start=False, is_deployed=is_deployed) for _ in range(most)]
    assert told == [False] * (most - 1) + [True]


def test_a_call_that_nobody_waits_for_is_given_up_within_two_minutes():
    async def wait():
        clock, cancelled = _clock(), []
        function = SimpleNamespace(pool=SimpleNamespace(cancel=lambda call, kill: cancelled.append(call.id)))
        calls = {name: Call(name, function, name != "spawned", False) for name in ("left", "waits", "spawned", "asks")}
        for call in calls.values():
            call.heard_at = clock.monotonic()
        watch = CallerWatch(clock, lambda: calls)
        watch.begin()
        with watch.hears(calls["waits"]):
            clock.advance(60)
            with watch.hears(calls["asks"]):
                pass
            clock.advance(60)
            assert cancelled == ["left"]
            assert calls["waits"].is_cancelled is False
        clock.advance(89)
        assert cancelled == ["left", "asks"]
        clock.advance(31)
        assert cancelled == ["left", "asks", "waits"]
        assert list(calls) == ["spawned"]

    asyncio.run(wait())


def test_results_and_logs_are_deleted_when_they_are_old(tmp_path: Path):
    async def age():
        clock = _clock()
        store = Store(tmp_path / "state.db", clock.now)
        blobs = BlobServer(tmp_path / "blobs", lambda volume, path: Path())
        log = tmp_path / "ap-1.log"
        log.write_text("old")
        retention = Retention(store, blobs, tmp_path, clock)
        retention.begin()
        assert not log.exists() or log.stat().st_mtime >= clock.now() - 30 * _DAY_S
        blobs.path("bl-1").write_text("large")
        store.put("blob", "bl-1", b"")
        result = api_pb2.GenericResult(data_blob_id="bl-1")
        store.put_output("fc-1", 0, api_pb2.FunctionGetOutputsItem(result=result).SerializeToString())
        clock.advance(6 * _DAY_S)
        store.put_output("fc-1", 1, api_pb2.FunctionGetOutputsItem(idx=1).SerializeToString())
        made_at = clock.now() - 6 * _DAY_S
        assert not retention.is_expired(made_at)
        assert blobs.path("bl-1").exists()
        clock.advance(2 * _DAY_S)
        assert retention.is_expired(made_at)
        assert not blobs.path("bl-1").exists()
        assert store.all("blob") == []
        assert len(store.outputs("fc-1", 0, 9)) == 1
        store.close()

    asyncio.run(age())


def test_a_store_of_an_earlier_version_is_taken_over(tmp_path: Path):
    import sqlite3

    old = sqlite3.connect(tmp_path / "state.db")
    old.execute("create table output (call_id text, idx integer, data blob, primary key (call_id, idx)) without rowid")
    old.execute("insert into output values ('fc-1', 0, x'61')")
    old.commit()
    old.close()
    store = Store(tmp_path / "state.db")
    store.put_output("fc-1", 1, b"b")
    assert store.drop_outputs(0.0) == []
    assert store.outputs("fc-1", 0, 9) == [b"a", b"b"]
    store.close()


@pytest.mark.parametrize("name", ["a", "x" * 64, "My_app-1.2", "ap-short"])
def test_names(name):
    check_name("app", name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "..", "é", "ap-" + "x" * 22, "a\n"])
def test_what_is_no_name(name):
    with pytest.raises(GRPCError) as raised:
        check_name("volume", name)
    assert raised.value.status is Status.INVALID_ARGUMENT
    assert raised.value.message.startswith(f"invalid volume name `{name}`: ")


@pytest.mark.parametrize("name", ["main", "0", "A-b_c", "x" * 64])
def test_names_of_environments(name):
    check_environment(name)


@pytest.mark.parametrize("name", ["", "-a", "_a", "en-1", "EN-x", "a/b", "x" * 65])
def test_what_is_no_name_of_an_environment(name):
    with pytest.raises(GRPCError) as raised:
        check_environment(name)
    assert raised.value.message.startswith(f"invalid environment name `{name}`: ")
