"""What an engine leaves on disk: logs with a limit, and what `--prune` takes away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_bench import APPS, Bench

from modalbatch.engines.local import LocalEngine
from modalbatch.engines.local.calls.call import Call
from modalbatch.engines.local.calls.journal import Journal
from modalbatch.engines.local.containers.log import AppLog
from modalbatch.engines.local.function import App, Function
from modalbatch.engines.local.lease import version_notes
from modalbatch.engines.local.prune import KEPT_S, free, pruning
from modalbatch.engines.local.store import Store
from modalbatch.engines.local.wire import proto
from modalbatch.errors import UnavailableError

_KEEP = "import modal; print(modal.Cls.from_name('service', 'Keeper')().keep.remote('a', 'text'))"


def test_a_log_that_is_full_says_so_and_grows_no_more(tmp_path):
    log = AppLog(tmp_path / "ap-1.log", max_bytes=10_000)
    for _ in range(1000):
        log.write("x" * 99 + "\n", stream=proto.FILE_DESCRIPTOR_STDOUT)
    log.write("the engine still speaks\n")
    assert (tmp_path / "ap-1.log").stat().st_size < 11_000
    *_, told, last = [batch.items[0].data for batch in log.read(0)]
    assert told == "modalbatch: this log has reached 0 MiB: what is printed from here on is not kept\n"
    assert last == "the engine still speaks\n"


def test_a_payload_is_kept_as_long_as_its_input(tmp_path):
    store = Store(tmp_path / "state.db")
    app = App(id="ap-1", environment="main", name="a", log=AppLog(tmp_path / "log"), deployed_at=1.0)
    function = Function(id="fu-1", app=app, definition=proto.Function())
    journal, call = Journal(store), Call("fc-1", function, is_sync=False, is_map=False)
    journal.add_inputs(call, [call.add(0, proto.FunctionInput(args_blob_id="bl-argument"))])
    assert store.all("blob") == [("bl-argument", b"")]
    (again,) = journal.unfinished(lambda _: function)
    assert [item.data.args_blob_id for item in again.inputs.values()] == ["bl-argument"]
    result = proto.GenericResult(data_blob_id="bl-result")
    journal.keep_output(call, proto.FunctionGetOutputsItem(idx=0, result=result))
    assert store.all("blob") == [("bl-result", b"")]
    assert journal.unfinished(lambda _: function) == []
    store.close()


def _age(path: Path) -> None:
    then = time.time() - KEPT_S - 1
    os.utime(path, (then, then))


def test_prune_frees_what_nothing_needs_and_nothing_else(home, tmp_path):
    cache = tmp_path / "cache"
    for name in ("old", "used"):
        (cache / "envs" / name / "bin").mkdir(parents=True)
    _age(cache / "envs" / "old")
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        bench.modal("deploy", "service.py")
        assert "text" in bench.python(_KEEP)
        bench.modal("run", "trouble.py::fine")
        with pytest.raises(UnavailableError, match="a local engine uses"):
            with pruning(home, os.environ):
                pass
    state = home / "engine"
    n_files = len(list((state / "files").iterdir()))
    (state / "logs" / "ap-1.log").write_text("old")
    _age(state / "logs" / "ap-1.log")
    (state / "blobs" / "bl-left").write_bytes(b"x" * 5000)
    with pruning(home, {"MODALBATCH_CACHE": str(cache)}) as wastes:
        names = {waste.name: len(waste.paths) for waste in wastes}
        assert names["environments not used for 30 days"] == 1
        assert names["logs that are full or older than 30 days"] == 1
        assert names["payloads of calls that are over"] == 1
        assert 0 < names["uploaded code that no deployed app needs"] < n_files
        assert all(waste.n_bytes for waste in wastes if waste.name.startswith(("payloads", "uploaded")))
        for waste in wastes:
            free(waste)
    assert [path.name for path in (cache / "envs").iterdir()] == ["used"]
    assert list((state / "roots").iterdir()) == []
    with LocalEngine(home) as engine:  # the deployed app has all that it needs
        assert "text" in Bench(home, engine).python(_KEEP)
    assert (home / "volumes" / "main" / "service-data" / "a").read_text() == "text"


def _local(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modalbatch", "local", *words],
        cwd=APPS,
        env={**os.environ, "MODALBATCH_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_prune_says_what_it_frees(home, monkeypatch, tmp_path):
    (home / "engine" / "blobs").mkdir(parents=True)
    (home / "engine" / "blobs" / "bl-1").write_bytes(b"x" * 8192)
    monkeypatch.setenv("MODALBATCH_CACHE", str(tmp_path))
    assert _local(home, "--prune").stdout == "payloads of calls that are over: 1, 8.0 KiB\nfreed 8.0 KiB\n"
    assert _local(home, "--prune").stdout == "freed 0 bytes\n"
    both = _local(home)
    assert both.returncode == 2
    assert "`local` needs a command or `--prune`" in both.stdout


@pytest.mark.parametrize(
    ("version", "is_noted"), [("1.4.0", False), ("1.6.9.dev2", False), ("1.3.5", True), ("1.7", True)]
)
def test_a_version_outside_the_range_is_named(version, is_noted):
    told = f"modal {version} is outside the range that the local engine is tested with (>=1.4,<1.7)"
    assert version_notes(version) == ([told] if is_noted else [])
