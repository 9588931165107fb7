"""A sink of each release, as it was left: this version reads it, proves it and goes on with it."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from command import write_records

KEPT = Path(__file__).resolve().parents[1] / "kept"
RELEASES = sorted(path.name for path in KEPT.iterdir() if (path / "kept.yaml").exists())
EVERYTHING = [*range(45), 101, *range(103, 110), *range(200, 205), *range(300, 303)]


@pytest.fixture(params=RELEASES)
def kept(request, work) -> Path:
    shutil.copytree(KEPT / request.param, work, dirs_exist_ok=True)
    return work


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}


def test_there_is_one_of_this_release():
    from modalbatch import __version__

    assert __version__ in RELEASES


def test_there_is_nothing_to_do_and_nothing_is_written(modalbatch, kept):
    before = files(kept)
    ran = modalbatch("apply", "kept.yaml")
    assert (ran.code, "nothing to do" in ran.err) == (0, True), ran.err
    assert files(kept) == before
    assert modalbatch("verify", "kept.yaml", "--strict").code == 0
    assert sorted(json.loads(line)["n"] for line in modalbatch("cat", "kept.yaml").out.splitlines()) == EVERYTHING
    (letter,) = map(json.loads, modalbatch("cat", "kept.yaml", "--dead").out.splitlines())
    assert letter["record"] == {"n": 100, "bad": "always"}


def test_new_input_is_done_and_the_rest_is_kept(modalbatch, kept):
    before = files(kept)
    write_records(kept / "data/new.jsonl", [{"n": 400}])
    ran = modalbatch("apply", "kept.yaml", "--json")
    assert (ran.code, ran.json["counts"]["in"]) == (0, 1), ran.err
    added = {name: data for name, data in files(kept).items() if name not in before and "/part-" in name}
    assert [json.loads(gzip.decompress(data)) for data in added.values()] == [{"n": 400}]
    assert modalbatch("verify", "kept.yaml", "--strict").code == 0


def test_a_newer_format_is_refused_by_name(modalbatch, kept):
    before = files(kept)
    for path in (kept / "out/_modalbatch").glob("*.json"):
        path.write_text(path.read_text().replace('"format":1', '"format":2'))
    changed = files(kept)
    ran = modalbatch("apply", "kept.yaml")
    assert ran.code == 2
    assert "has format 2, this version reads up to 1" in ran.err
    assert "pip install --upgrade modalbatch" in ran.err
    assert files(kept) == changed != before
