"""Many processes create the same names at once: each name has one winner, whose bytes stand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modalbatch.stores import open_store
from servers import Bucket, Container

_N_PROCESSES, _N_NAMES = 6, 40
#: Waits for a line, so that all begin together.
_WRITER = """\
import json, sys
from modalbatch.stores import open_store
uri, endpoint_url, token, n_names = sys.argv[1:]
store = open_store(uri, endpoint_url=endpoint_url or None)
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([store.create(f"race/{n}", f"{token}".encode()) for n in range(int(n_names))]))
"""


@pytest.mark.parametrize("kind", ["local", "s3", "azure"])
def test_one_of_many_processes_creates(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """F15 LS, F29 LS: two drivers, two attempts: the store decides between them."""
    uri, endpoint_url = f"{tmp_path}/sink/", ""
    if kind == "s3":
        bucket: Bucket = request.getfixturevalue("s3_bucket")
        uri, endpoint_url = f"{bucket.uri}sink/", bucket.endpoint_url
    if kind == "azure":
        container: Container = request.getfixturevalue("azure_container")
        uri, endpoint_url = f"{container.uri}sink/", container.endpoint_url
    command = [sys.executable, "-c", _WRITER, uri, endpoint_url]
    writers = [
        subprocess.Popen(
            [*command, f"writer-{n}", str(_N_NAMES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(_N_PROCESSES)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    won = [json.loads(writer.communicate()[0]) for writer in writers]
    store = open_store(uri, endpoint_url=endpoint_url or None)
    for n in range(_N_NAMES):
        winners = [index for index in range(_N_PROCESSES) if won[index][n]]
        assert [f"writer-{index}".encode() for index in winners] == [store.read(f"race/{n}")]
