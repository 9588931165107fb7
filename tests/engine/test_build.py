"""Build functions: run once, and what they write is there in every container of the image, and only there."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from engine_bench import Bench, processes_of

from modalbatch.engines.local import LocalEngine

HOME = Path("~").expanduser()
ON_HOST = [
    Path("/mb-built"),
    Path("/opt/mb-built"),
    Path("/root/mb-built.txt"),
    Path("/tmp/mb-built.txt"),
    Path("/srv/mb-built"),
    HOME / ".cache" / "mb-built",
]


def test_what_a_build_function_writes_is_part_of_the_image(bench):
    first = bench.run("built.py")
    assert "building  /root red t" in first["output"]
    assert first["output"].count("extending") == 1
    logs = [path.read_bytes() for path in (bench.home / "engine" / "logs").glob("im-*.log")]
    assert sum(b"extending" in log for log in logs) == 1
    assert first["texts"] == {
        "/mb-built/deep/one.txt": "abab+",
        "/opt/mb-built/one.txt": "abab",
        "/root/mb-built.txt": "abab",
        str(HOME / ".cache/mb-built/one.txt"): "abab",
        "/tmp/mb-built.txt": "abab",
    }
    assert first["relative"] == "abab"
    assert (first["cwd"], first["module"], first["others"]) == ("/srv/mb-built", "made", ["deep"])
    assert (first["volume"], first["hosts"]) == ("ab", True)
    assert not any(path.exists() for path in ON_HOST)

    second = bench.run("built.py")
    assert "building" not in second["output"]
    assert "extending" not in second["output"]
    assert {key: second[key] for key in second if key != "output"} == {
        key: first[key] for key in first if key != "output"
    }


def test_a_build_is_forced_with_all_that_stands_on_it(bench, monkeypatch):
    bench.run("built.py")
    monkeypatch.setenv("BUILD_FORCE", "1")
    forced = bench.run("built.py")
    assert "building" in forced["output"]
    assert "extending" in forced["output"]
    assert forced["texts"]["/mb-built/deep/one.txt"] == "abab+"


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("raises", "failed with the exception: ValueError('no such weights')"),
        ("dies", "failed with the exception: container exited with code 7 while it ran the input"),
        ("late", "timed out. Please try again with a larger `timeout` parameter."),
    ],
)
def test_a_build_that_fails_fails_the_app_and_is_tried_again(bench, monkeypatch, mode, said):
    monkeypatch.setenv("BUILD_MODE", mode)
    monkeypatch.setenv("COLUMNS", "200")
    for _ in range(2):
        output = bench.modal("run", "built.py", code=1)
        assert f"building {mode} /root red t" in output
        assert said in " ".join(output.replace("│", "").split())  # older clients draw a box around it
        assert "extending" not in output


def test_faults_are_not_for_builds(home):
    with LocalEngine(home, chaos="slow=100%,delay=1ms,seed=1") as engine:
        assert Bench(home, engine).run("built.py")["relative"] == "abab"
    assert "delayed" in engine.summary


def test_a_build_ends_with_the_client_that_wants_it(bench, monkeypatch):
    monkeypatch.setenv("BUILD_MODE", "slow")
    before = len(processes_of(bench.home))
    client = bench.start(sys.executable, "-m", "modal", "run", "built.py")
    for line in client.stdout:
        if "building slow" in line:
            break
    assert len(processes_of(bench.home)) > before
    client.kill()
    client.wait()
    client.stdout.close()
    layers = bench.home / "engine" / "layers"
    while len(processes_of(bench.home)) > before or list(layers.glob("*.draft")):
        time.sleep(0.01)


def test_without_overlays_the_log_says_where_things_are(home, monkeypatch):
    monkeypatch.setenv("MODALBATCH_NO_NAMESPACES", "1")
    (home / "plain.py").write_text(
        "import modal, os, pathlib\n"
        f"PLACE = pathlib.Path({str(home / 'there.txt')!r})\n"
        "def build():\n    PLACE.write_text(f'{os.getpid()}')\n"
        "app = modal.App('plain', image=modal.Image.debian_slim().run_function(build))\n"
        "@app.function()\ndef f(): return PLACE.read_text()\n"
        "@app.local_entrypoint()\ndef main():\n    print('SAID', f.remote())\n"
    )
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        outputs = [bench.modal("run", "plain.py", cwd=home) for _ in range(2)]
    said = [line for output in outputs for line in output.splitlines() if line.startswith("SAID")]
    assert said[0] == said[1] == f"SAID {(home / 'there.txt').read_text()}"
    assert "the kernel gives no overlays here" in outputs[0].replace("\n", " ")
