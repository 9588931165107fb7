"""Failures: of code, of containers, of time."""

from __future__ import annotations


def test_failures_have_the_meaning_they_have_on_modal(bench):
    """exceptions, retries of client and server, exits, `timeout`, `startup_timeout`, `cancel`."""
    found = bench.run("trouble.py::main")
    assert found["fail"] == "KeyError: 'missing'"
    assert found["client_retries"] == 3
    assert found["map_retries"] == [2, 1]
    assert found["server_retries"] == 3
    assert found["too_many"] == "RuntimeError: attempt 3"
    assert found["crash_once"] == 2
    assert found["crash_twice"] == "RemoteError: container exited with code 7 while it ran the input"
    assert found["timeout"].startswith("FunctionTimeoutError: input in-")
    assert found["timeout"].endswith("hit its timeout of 1s")
    assert found["after_timeout"] == 0
    assert found["enter"] == "RuntimeError: cannot load the model"
    assert found["enter_again"] == "RuntimeError: cannot load the model"
    assert found["poll"].startswith("TimeoutError")
    assert found["cancelled"].startswith("RemoteError")
    assert found["terminated"].startswith("RemoteError")
    assert found["started"] == 1
    assert found["left_early"] is None
    assert found["slow_start"] == ("RemoteError: container failed to start: startup took longer than startup_timeout")


def test_a_failing_run_ends_with_the_error(bench):
    assert "cannot load the model" in bench.modal("run", "trouble.py::broken_only", code=1)


def test_an_unmounted_module_fails_as_on_modal(bench, tmp_path):
    (tmp_path / "unsent.py").write_text("x = 1\n")
    (tmp_path / "sender.py").write_text(
        "import modal\napp = modal.App('sender', include_source=True)\n"
        "@app.function()\ndef f():\n    import unsent\n"
        "@app.local_entrypoint()\ndef main():\n    f.remote()\n"
    )
    assert "No module named 'unsent'" in bench.modal("run", "sender.py", code=1, cwd=tmp_path)


def test_modals_limits_are_checked(bench, tmp_path):
    for number, (option, told) in enumerate(
        [("timeout=86401", "between 1 and 86400"), ("gpu='H100:9'", "1 to 8 of `H100`")]
    ):
        (tmp_path / f"limit{number}.py").write_text(
            f"import modal\napp = modal.App('limit')\n@app.function({option})\ndef f(): pass\n"
        )
        assert told in bench.modal("run", f"limit{number}.py::f", code=1, cwd=tmp_path).replace("\n", " ")
