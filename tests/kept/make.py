"""Makes the sink that the tests keep of a release: `python tests/kept/make.py`, once, before the release.

It has whatever a sink can have: several manifests, pieces of a range that was divided, dead letters, a receipt in the
place of another one, two accepted fingerprints, output of an input that is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from modalbatch import __version__

SPEC = """\
version: 1
name: kept
handler: handlers:work
source: {uri: data/*.jsonl}
sink: {uri: out/, compression: gz}
timeout: 3s
retries: 0
image: {python: "3.12"}
on_error: {max_failed: 10}
"""
HANDLER = """\
import time


def work(record):
    time.sleep(record.get("wait", 0))
    if record.get("bad") in {bad}:
        raise ValueError(record["bad"])
    return None if record.get("skip") else {{"n": record["n"]}}
"""


def write(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make(folder: Path) -> None:
    """The job of a release, in an empty folder."""
    (folder / "data").mkdir()
    (folder / "kept.yaml").write_text(SPEC)
    (folder / "handlers.py").write_text(HANDLER.format(bad=["always", "at first"]))
    write(folder / "data/long.jsonl", [{"n": n, "wait": 0.1} for n in range(45)])
    bad = [{"n": 100, "bad": "always"}, {"n": 101, "bad": "at first"}, {"n": 102, "skip": True}]
    write(folder / "data/mixed.jsonl", [*bad, *({"n": n} for n in range(103, 110))])
    write(folder / "data/gone.jsonl", [{"n": n} for n in range(200, 205)])
    run(folder, "apply", "kept.yaml")
    (folder / "handlers.py").write_text(HANDLER.format(bad=["always"]))
    run(folder, "retry", "kept.yaml")
    (folder / "data/gone.jsonl").unlink()
    write(folder / "data/later.jsonl", [{"n": n} for n in range(300, 303)])
    run(folder, "apply", "kept.yaml")
    shutil.rmtree(folder / "out/_modalbatch/tmp", ignore_errors=True)
    for path in folder.rglob("plan.json"):
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "user": "somebody@somewhere"}, sort_keys=True, separators=(",", ":")))
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)


def run(folder: Path, *args: str) -> None:
    command = [str(Path(sys.executable).with_name("modalbatch")), *args, "--engine", "local"]
    with tempfile.TemporaryDirectory() as home:
        subprocess.run(command, cwd=folder, env={**os.environ, "MODALBATCH_HOME": home}, check=True)


if __name__ == "__main__":
    target = Path(__file__).with_name(__version__)
    target.mkdir()
    make(target)
