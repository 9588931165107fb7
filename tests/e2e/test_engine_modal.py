"""The engine `modal`, against a server that speaks Modal's protocol: the only difference is who answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from command import live_records, write_records
from modalbatch.engines.local import LocalEngine


@pytest.fixture
def modal(modalbatch, tmp_path):
    """The command with `--engine modal` and a token, for a server that is started separately."""
    with LocalEngine(tmp_path / "server") as engine:
        # What says that this server is not Modal is not for the command.
        modalbatch.environ |= {name: value for name, value in engine.environ().items() if name.startswith("MODAL_")}
        modalbatch.environ["MODALBATCH_ENGINE"] = "modal"
        yield modalbatch


def test_without_a_terminal_it_needs_a_yes(modal, squares):
    done = modal("apply", "squares.yaml")
    assert done.code == 2
    assert done.err.splitlines()[0] == "modal · environment main · 100 containers · out/"
    assert done.err.splitlines()[-2:] == [
        "error: running on Modal costs money: without a terminal it needs a yes",
        "hint: add --yes",
    ]
    assert not squares.exists()


def test_local_data_travels_once_and_results_come_back(modal, squares, work):
    done = modal("apply", "squares.yaml", "--yes")
    assert done.code == 0, done.err
    assert "staged: 2 local files, 1 uploaded, 45 bytes" in done.err.splitlines()  # both files have the same content
    assert "fetched: 2 files, 192 bytes into out/" in done.err.splitlines()
    assert len(live_records(squares)) == 10
    again = modal("apply", "squares.yaml", "--yes", "--json")
    assert (again.code, again.json["status"]) == (0, "nothing_to_do")
    write_records(work / "data/a.jsonl", [{"n": 9}])
    more = modal("apply", "squares.yaml", "--yes")
    assert "staged: 2 local files, 1 uploaded, 9 bytes" in more.err.splitlines()
    assert "fetched: 1 file, 20 bytes into out/" in more.err.splitlines()
    assert sorted(item["n"] for item in live_records(squares)) == [0, 1, 2, 3, 4, 9]
    assert len(list(squares.glob("part-*"))) == 2
    assert modal("verify").code == 0
    assert modal("cat").out.count("\n") == 6


def test_a_retry_needs_a_yes_and_brings_the_results_here(modal, squares, work):
    write_records(work / "data/b.jsonl", [{"n": 1}, {"m": 2}])
    assert modal("apply", "squares.yaml", "--yes").code == 1
    handler = work / "handlers.py"
    handler.write_text(handler.read_text().replace('record["n"]', 'record.get("n", 0)'))
    for path in (work / "data").iterdir():  # what it does not look at
        path.unlink()
    write_records(work / "data/z.jsonl", [{"n": 100}])
    refused = modal("retry", "squares.yaml")
    assert (refused.code, refused.err.splitlines()[-1]) == (2, "hint: add --yes")
    done = modal("retry", "squares.yaml", "--yes")
    assert (done.code, "retrying 1 dead letter of 1 split, for manifest 2" in done.err.splitlines()) == (0, True)
    assert "staged" not in done.err
    assert sorted(item["square"] for item in live_records(squares)) == [0, 0, 1, 1, 4, 9, 16]
    assert modal("verify").code == 0


def test_a_mirror_that_is_lost_comes_back(modal, squares):
    assert modal("apply", "squares.yaml", "--yes").code == 0
    for path in [*squares.glob("part-*"), squares / "_SUCCESS"]:
        path.unlink()
    done = modal("apply", "squares.yaml", "--yes")
    assert (done.code, "fetched: 2 files, 192 bytes into out/" in done.err.splitlines()) == (0, True)
    assert modal("verify").code == 0


def test_a_sink_is_made_here_or_there(modal, squares, work):
    assert modal("apply", "squares.yaml", "--yes").code == 0
    here = modal("apply", "squares.yaml", "--engine", "local")
    assert (here.code, here.err.splitlines()[1:]) == (
        2,
        [
            f"error: `{squares}` mirrors results that were made on Modal",
            "hint: --engine modal, or another sink",
        ],
    )


def test_results_of_this_machine_are_not_overwritten(modal, squares):
    assert modal("apply", "squares.yaml", "--engine", "local").code == 0
    done = modal("apply", "squares.yaml", "--yes")
    assert (done.code, done.err.splitlines()[1:]) == (
        2,
        [
            f"error: `{squares}` holds results that were made on this machine",
            "hint: give runs on Modal another sink, or remove these with `modalbatch rm`",
        ],
    )


def test_a_detached_run_goes_on_without_its_command(modal, gate):
    started = modal("apply", "gated.yaml", "--yes", "--detach", "--json")
    assert (started.code, started.json["status"]) == (0, "running")
    run_id = started.json["run_id"]
    status = modal("status", "--json")
    assert (status.json["run_id"], status.json["end"]) == (run_id, None)
    follower = modal.start("status", "--follow", "--json")
    follower.wait_for('"event": "progress"')
    gate.touch()
    done = follower.end()
    assert done.code == 0, modal("logs").out[-6000:] + done.err
    assert len(live_records(gate.parent / "out")) == 30
    assert modal("status", "--json").json["state"] == "done"


def test_an_interrupt_leaves_the_run_alone(modal, gate):
    run = modal.start("apply", "gated.yaml", "--yes", "--verbose")
    run.wait_for("| working on")
    run.process.terminate()
    done = run.end()
    assert done.code == 130
    assert " goes on" in done.err.splitlines()[-2]
    gate.touch()
    again = modal("apply", "gated.yaml", "--yes")
    assert again.code == 0, again.err
    assert len(live_records(gate.parent / "out")) == 30


def test_modal_run_stages_and_fetches_too(modal, squares):
    assert modal("compile", "squares.yaml", "-o", "app.py").code == 0
    run = modal("run", "-q", "app.py", program="modal")
    assert run.code == 0, run.err
    assert "staged: 2 local files, 1 uploaded, 45 bytes" in run.err.splitlines()
    assert len(live_records(squares)) == 10


def test_without_a_token(modalbatch, squares):
    done = modalbatch("apply", "squares.yaml", "--engine", "modal")
    assert (done.code, done.err) == (
        2,
        "error: Modal's client has no token here\n"
        "hint: `modal setup` makes one, or run on this machine: --engine local\n",
    )


def test_without_a_network_it_is_one_line(modalbatch, squares, tmp_path: Path):
    modalbatch.environ |= {
        "MODAL_TOKEN_ID": "ak-none",
        "MODAL_TOKEN_SECRET": "as-none",
        "MODAL_SERVER_URL": f"unix://{tmp_path}/nobody",
    }
    done = modalbatch("apply", "squares.yaml", "--yes")
    assert (done.code, done.err) == (
        75,
        f"error: Modal cannot be reached at {tmp_path}/nobody: No such file or directory\n"
        "hint: check the network, then apply again; or run on this machine: --engine local\n",
    )


def test_detach_needs_modal(modalbatch, squares):
    done = modalbatch("apply", "squares.yaml", "--detach")
    assert (done.code, done.err) == (
        2,
        "error: the local engine ends with its command: `--detach` needs Modal\nhint: --engine modal\n",
    )
