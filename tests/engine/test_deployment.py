"""Deployments, names, environments, logs; and what survives the engine."""

from __future__ import annotations

import inspect
import json
import re

import modal
import pytest
from engine_bench import Bench

from modalbatch.engines.local import LocalEngine

_CALL = "import modal; print('VERSION', modal.Function.from_name('service', 'version').remote())"


def test_deploy_call_redeploy_stop(bench, monkeypatch):
    bench.modal("deploy", "service.py")
    assert "VERSION 1" in bench.python(_CALL)
    monkeypatch.setenv("SERVICE_VERSION", "2")
    bench.modal("deploy", "service.py")
    assert "VERSION 2" in bench.python(_CALL)
    keep = "import modal; print(modal.Cls.from_name('service', 'Keeper')().keep.remote('a', 'text'))"
    assert "text" in bench.python(keep)
    # Modal's command line wrote these words as titles up to 1.4.
    apps = json.loads(
        bench.modal("app", "list", "--json").replace('"Description"', '"description"').replace('"State"', '"state"')
    )
    assert [(app["description"], app["state"]) for app in apps if app["description"] == "service"] == [
        ("service", "deployed")
    ]
    assert "asked for the version" in bench.modal("app", "logs", "service")
    bench.modal("app", "stop", "service", "--yes")
    assert "not deployed" in bench.python(_CALL, 1)


_RELAY = "import modal; print('RELAY', modal.Function.from_name('versions', 'relay'{}).remote())"
_STAMP = "import modal; print('STAMP', modal.Cls.from_name('versions', 'Stamp'{})(prefix='s').mark.remote())"


def _deploy_versions(bench, monkeypatch):
    for version in "123":
        monkeypatch.setenv("SERVICE_VERSION", version)
        bench.modal("deploy", "service.py", "--name", "versions", "--tag", f"tag{version}")


@pytest.mark.skipif("version" not in inspect.signature(modal.Function.from_name).parameters, reason="new in modal 1.5")
def test_earlier_versions_are_called_by_number_and_so_are_those_they_call(home, monkeypatch):
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        _deploy_versions(bench, monkeypatch)
        assert "RELAY 33v3" in bench.python(_RELAY.format(""))
        assert "RELAY 11v1" in bench.python(_RELAY.format(", version=1"))
        assert "STAMP s2" in bench.python(_STAMP.format(", version=2"))
        missing = bench.python(_RELAY.format(", version=9"), 1)
        assert "version 9 of app `versions` is not kept here, only 1 to 3" in missing
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        assert "RELAY 22v2" in bench.python(_RELAY.format(", version=2"))
        bench.modal("app", "stop", "versions", "--yes")
        assert "not deployed" in bench.python(_RELAY.format(", version=2"), 1)


def test_a_rollback_is_a_new_version(bench, monkeypatch):
    _deploy_versions(bench, monkeypatch)
    bench.modal("app", "rollback", "versions", "v1")
    assert "RELAY 11v1" in bench.python(_RELAY.format(""))
    bench.modal("app", "rollback", "versions")
    assert "RELAY 33v3" in bench.python(_RELAY.format(""))
    history = json.loads(bench.modal("app", "history", "versions", "--json"))
    words = [{name.lower(): text for name, text in row.items()} for row in history]
    assert [(row["version"], row["tag"]) for row in words][:4] == [
        ("v5", None), ("v4", None), ("v3", "tag3"), ("v2", "tag2"),
    ]  # fmt: skip
    assert "version 1 of app `versions` is not kept here" in bench.modal("app", "rollback", "versions", "v1", code=1)


def test_deployments_are_counted(bench):
    for words in (["--tag", "first"], []):
        bench.modal("deploy", "timed.py", "--name", "counted", *words)
    assert "schedules fire" not in bench.modal("app", "logs", "counted")
    bench.modal("app", "rollover", "counted")
    history = json.loads(bench.modal("app", "history", "counted", "--json").lower())
    assert [entry["version"] for entry in history] == ["v3", "v2", "v1"]
    assert [entry["tag"] for entry in history] == [None, None, "first"]
    bench.modal("app", "stop", "counted", "--yes")


def test_missing_names_are_not_found(bench):
    bench.modal("deploy", "service.py", "--name", "half")
    source = "import modal; modal.Function.from_name('half', 'nothing').hydrate()"
    assert "app `half` has no function `nothing`" in bench.python(source, 1)


def test_environments_are_made_on_demand_and_are_apart(bench):
    bench.modal("deploy", "service.py", "-e", "prod", "--name", "elsewhere")
    source = "import modal; print(modal.Function.from_name('elsewhere', 'version', environment_name={!r}).remote())"
    assert "1" in bench.python(source.format("prod"))
    assert "not deployed in environment `main`" in bench.python(source.format("main"), 1)


def test_detached_app_ends_with_its_calls(bench):
    source = (
        "import modal, calls\n"
        "with calls.app.run(detach=True):\n    call = calls.square.spawn(5)\n    print('CALL', call.object_id)\n"
    )
    call_id = re.search(r"CALL (\S+)", bench.python(source))[1]
    assert "25" in bench.python(f"import modal; print(modal.FunctionCall.from_id('{call_id}').get())")


def test_state_survives_the_engine(home):
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        first, home_id = engine.engine_id, engine.home_id
        bench.modal("deploy", "service.py")
        spawn = (
            "import modal\n"
            "d = modal.Dict.from_name('d', create_if_missing=True); d['a'] = 1\n"
            "print(modal.Cls.from_name('service', 'Keeper')().keep.remote('kept', 'yes'))\n"
            "call = modal.Function.from_name('service', 'version').spawn(); call.get(); print('CALL', call.object_id)\n"
        )
        call_id = re.search(r"CALL (\S+)", bench.python(spawn))[1]
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        assert engine.engine_id != first
        assert engine.home_id == home_id
        assert "VERSION 1" in bench.python(_CALL)
        again = f"import modal; print(modal.Dict.from_name('d')['a'], modal.FunctionCall.from_id('{call_id}').get())"
        assert "1 1" in bench.python(again)
        assert bench.modal("volume", "get", "service-data", "kept", "-").startswith("yes")
