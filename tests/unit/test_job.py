"""Fingerprints: what decides data changes them, nothing else does; those of golden jobs are pinned for ever."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from modalbatch.fingerprint import fingerprint, hash_code
from modalbatch.job import (
    Compute,
    Credentials,
    Handler,
    Image,
    Job,
    OnError,
    Retries,
    SecretRef,
    Sink,
    Source,
    Split,
    VolumeRef,
)

PINNED = Path(__file__).parents[1] / "golden/fingerprints.json"
CODE = "c" * 64
PLAIN = Job(name="j", handler=Handler(call="h:f"), source=Source(uris=("data/*.jsonl",)), sink=Sink(uri="out/"))
DOCKERFILE = {"dockerfile": {"path": "docker/Dockerfile", "sha256": "d" * 64}}
GOLDEN = {
    "plain": PLAIN,
    "handler": replace(
        PLAIN, handler=Handler(call="pkg.mod:Class", args={"a": 1, "ü": [1.5, None]}, batch_size=64, keep=("id", "url"))
    ),
    "version": replace(PLAIN, handler=Handler(call="h:f", version="3"), image=Image(apt=("git",))),
    "image": replace(
        PLAIN,
        image=Image(
            base={"registry": "x/y:1"},
            python="3.11",
            apt=("git",),
            pip=({"packages": ["torch==2.1"]},),
            requirements={"path": "requirements.txt", "sha256": "e" * 64},
            run=({"command": "echo"},),
            env={"A": "1"},
            workdir="/app",
            add_local=({"local": "prompts/", "remote": "/prompts", "sha256": "f" * 64},),
            source=("lib",),
            layers=({"apt_install": ["jq"]},),
            pipe="images:more",
        ),
    ),
    "dockerfile": replace(PLAIN, image=Image(base=DOCKERFILE)),
    "data": replace(
        PLAIN,
        source=Source(uris=("a/*.gz",), compression="gz", split=Split(bytes=1 << 20)),
        sink=Sink(uri="o/", compression="zst"),
        on_error=OnError(record="drop"),
        env={"MODE": "x"},
    ),
}

#: Fields that never decide data.
SILENT = {
    "name": {"name": "other"},
    "description": {"description": "words"},
    "tags": {"tags": {"a": "b"}},
    "environment": {"environment": "prod"},
    "compute": {
        "compute": Compute(gpu=("H100",), cpu=(4,), memory_mib=(8192,), timeout_s=60, max_containers=7, region=("us",))
    },
    "retries": {"retries": Retries(max_retries=9)},
    "retry_on": {"retry_on": ("a.B",)},
    "secrets": {"secrets": (SecretRef(name="aws"),)},
    "volumes": {"volumes": {"/m": VolumeRef(name="m")}},
    "delivery": {"delivery": "at_least_once"},
    "max_failed": {"on_error": OnError(max_failed=3)},
    "uris": {"source": Source(uris=("elsewhere/*.jsonl", "b.jsonl"), endpoint_url="https://x", allow_empty=True)},
    "on_removed": {"source": Source(uris=("data/*.jsonl",), on_removed="drop")},
    "credentials": {"sink": Sink(uri="s3://b/o/", credentials=Credentials(profile="p"), endpoint_url="https://y")},
    "slots": {"handler": Handler(call="h:f", slots=4, concurrency=8, timeout_s=3)},
}
#: Fields that do.
LOUD = {
    "call": {"handler": Handler(call="h:g")},
    "args": {"handler": Handler(call="h:f", args={"a": 1})},
    "batch_size": {"handler": Handler(call="h:f", batch_size=1)},
    "keep": {"handler": Handler(call="h:f", keep=("id",))},
    "version": {"handler": Handler(call="h:f", version="1")},
    "record": {"on_error": OnError(record="drop")},
    "compression of the source": {"source": Source(uris=("data/*.jsonl",), compression="gz")},
    "max_record": {"source": Source(uris=("data/*.jsonl",), max_record_bytes=1 << 20)},
    "split": {"source": Source(uris=("data/*.jsonl",), split=Split(bytes=1))},
    "split by files": {"source": Source(uris=("data/*.jsonl",), split=Split(files=1))},
    "compression of the sink": {"sink": Sink(uri="out/", compression="gz")},
    "env": {"env": {"A": "1"}},
    "python": {"image": Image(python="3.11")},
    "apt": {"image": Image(apt=("git",))},
    "pip": {"image": Image(pip=({"packages": ["a"]},))},
    "image env": {"image": Image(env={"A": "1"})},
    "requirements": {"image": Image(requirements={"path": "r.txt", "sha256": "0" * 64})},
}


def test_golden_jobs_have_their_fingerprints(bless: bool) -> None:
    found = {name: fingerprint(job, CODE) for name, job in GOLDEN.items()}
    if bless:
        PINNED.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(PINNED.read_text())


@pytest.mark.parametrize("name", list(SILENT))
def test_a_field_that_decides_nothing(name: str) -> None:
    assert fingerprint(replace(PLAIN, **SILENT[name]), CODE) == fingerprint(PLAIN, CODE)


def test_each_field_that_decides_gives_another_fingerprint() -> None:
    found = {name: fingerprint(replace(PLAIN, **change), CODE) for name, change in LOUD.items()}
    assert len({*found.values(), fingerprint(PLAIN, CODE)}) == len(LOUD) + 1


def test_code_decides_unless_a_version_stands_for_it() -> None:
    assert fingerprint(PLAIN, CODE) != fingerprint(PLAIN, "d" * 64)
    versioned = replace(PLAIN, handler=Handler(call="h:f", version="1"))
    assert fingerprint(versioned, CODE) == fingerprint(versioned, "d" * 64)
    assert fingerprint(versioned, CODE) == fingerprint(replace(versioned, image=Image(apt=("git",))), CODE)


def test_where_a_file_lies_does_not_decide_its_content_does() -> None:
    def job(path: str, sha256: str) -> Job:
        return replace(PLAIN, image=Image(requirements={"path": path, "sha256": sha256}))

    assert fingerprint(job("a.txt", "0" * 64), CODE) == fingerprint(job("deep/b.txt", "0" * 64), CODE)
    assert fingerprint(job("a.txt", "0" * 64), CODE) != fingerprint(job("a.txt", "1" * 64), CODE)


@pytest.mark.parametrize("name", list(GOLDEN))
def test_a_job_survives_its_json(name: str) -> None:
    job = GOLDEN[name]
    again = Job.from_json(json.loads(json.dumps(job.to_json())))
    assert again == job
    assert fingerprint(again, CODE) == fingerprint(job, CODE)


def test_code_is_hashed_by_name_and_content_alone(tmp_path: Path) -> None:
    for folder, end in (("one", "\n"), ("two", "\r\n")):
        package = tmp_path / folder / "lib/sub"
        package.mkdir(parents=True)
        (tmp_path / folder / "handlers.py").write_bytes(b"a = 1" + end.encode())
        (package / "x.py").write_bytes(b"b = 2" + end.encode())
        (tmp_path / folder / "lib/data.txt").write_text(folder)
        (package / "__pycache__").mkdir()
        (package / "__pycache__/x.py").write_text(folder)
    one, two = (hash_code(["handlers", "lib"], [tmp_path / folder]) for folder in ("one", "two"))
    assert one == two
    assert hash_code(["lib", "handlers"], [tmp_path / "one"]) == one
    (tmp_path / "two/lib/sub/x.py").write_text("b = 3\n")
    assert hash_code(["handlers", "lib"], [tmp_path / "two"]) != one
    assert hash_code(["handlers"], [tmp_path / "one"]) != one
