"""Scaling, walls without namespaces, and bugs of our own."""

from __future__ import annotations

import json
import os
import signal
import time

from engine_bench import Bench, await_none, processes_of

from modalbatch.engines.local import LocalEngine


def _containers(bench):
    return json.loads(bench.modal("container", "list", "--json"))


def test_up_to_the_limit_and_down_to_the_minimum(home, tmp_path):
    folder = tmp_path / "meet"
    folder.mkdir()
    source = (
        "import modal\n"
        f"f = modal.Function.from_name('service', 'warm')\nprint('SEEN', list(f.starmap([({str(folder)!r}, 4)] * 4)))\n"
    )
    with LocalEngine(home, containers=3) as engine:
        bench = Bench(home, engine)
        bench.modal("deploy", "service.py")
        assert len(_containers(bench)) == 1
        assert "SEEN [2, 2, 2, 2]" in bench.python(source)
        while len(_containers(bench)) > 1:
            time.sleep(0.05)
    assert processes_of(home) == []


def test_out_to_the_target_before_up_to_the_most(home, tmp_path):
    folders = [tmp_path / "two", tmp_path / "four"]
    source = "import modal\nf = modal.Function.from_name('service', 'burst')\n"
    for folder, n in zip(folders, (2, 4), strict=True):
        folder.mkdir()
        source += f"print('SEEN', list(f.starmap([({str(folder)!r}, {n})] * {n})))\n"
    with LocalEngine(home, containers=2) as engine:
        bench = Bench(home, engine)
        bench.modal("deploy", "service.py")
        output = bench.python(source)
        assert "SEEN [2, 2]\nSEEN [2, 2, 2, 2]" in output
    await_none(home)


def test_without_namespaces_nothing_survives_either(home, monkeypatch):
    monkeypatch.setenv("MODALBATCH_NO_NAMESPACES", "1")
    source = "import modal, trouble\nwith trouble.app.run():\n    print('SPAWNED', trouble.leave_behind.remote())\n"
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        output = bench.python(source)
        assert any("containers have no namespaces of their own" in note for note in engine.notes)
    pid = int(output.split("SPAWNED ")[1].split()[0])
    assert processes_of(home) == []
    try:
        os.kill(pid, signal.SIG_DFL)
    except ProcessLookupError:
        return
    raise AssertionError("a grandchild outlived its container")


_RAW_REQUEST = """
import asyncio, os
from grpclib.client import Channel
from modal_proto import api_grpc, api_pb2

async def ask():
    channel = Channel(path=os.environ["MODAL_SERVER_URL"].removeprefix("unix://"))
    stub = api_grpc.ModalClientStub(channel)
    try:
        request = api_pb2.QueueNextItemsRequest(queue_id="q", last_entry_id="not a number")
        await stub.QueueNextItems(request, metadata={"x-modal-token-secret": os.environ["MODAL_TOKEN_SECRET"]})
    finally:
        channel.close()

asyncio.run(ask())
"""


def test_a_bug_of_ours_is_one_readable_error(bench):
    output = bench.python(_RAW_REQUEST, 1)
    assert "FAILED_PRECONDITION" in output
    assert "local engine failed in QueueNextItems: ValueError" in output
    log = bench.home / "engine" / "logs" / "engine.log"
    assert f"see {log}" in output
    assert 'services/object.py", line ' in output
    assert ", in QueueNextItems" in output
    assert "Traceback" in log.read_text()


def test_two_homes_do_not_meet(home, tmp_path):
    other = tmp_path / "other"
    with LocalEngine(home) as first, LocalEngine(other) as second:
        assert first.engine_id != second.engine_id
        assert first.home_id != second.home_id
    await_none(other)
