"""`errors`, and `cat --dead --error`."""

from __future__ import annotations

import json

from sample_sink import Sample


def test_kinds_with_a_sample_and_what_to_type(made: Sample, modalbatch) -> None:
    said = modalbatch("errors", "sample.yaml")
    assert said.code == 0
    found = json.loads(modalbatch("errors", "sample.yaml", "--json").out)
    (kind,) = found["kinds"]
    assert (found["dead"], found["others"], kind["n"], kind["cause"]) == (2, 0, 2, "rejected")
    signature, record = kind["signature"], json.dumps(kind["sample"]["record"])
    assert said.out.splitlines() == [
        "      2 × rejected · modalbatch.Reject: not one of ours",
        f"          {signature} · sample_handlers.py in work",
        f"          for example {kind['sample']['uri']} at byte {kind['sample']['position']['offset']:,}, record"
        f" {kind['sample']['position']['ordinal'] + 1} of its split: {record}",
        f"          again: modalbatch test sample.yaml --dead {kind['sample']['id']}",
    ]
    assert said.err == (
        "2 dead letters of 1 kind · manifest 1\n"
        f"next: modalbatch cat --dead --error {signature} · modalbatch retry --error {signature}\n"
    )
    # Of a sink that is found without its job the spec is not known.
    assert "again: modalbatch test SPEC --dead" in modalbatch("errors", "out").out


def test_the_letters_of_a_kind(made: Sample, modalbatch) -> None:
    signature = json.loads(modalbatch("errors", "out", "--json").out)["kinds"][0]["signature"]
    every = modalbatch("cat", "out", "--dead")
    assert modalbatch("cat", "out", "--dead", "--error", signature).out == every.out
    assert modalbatch("cat", "out", "--dead", "--error", signature, "-n", "1").out == every.out.splitlines(True)[0]
    unknown = modalbatch("cat", "out", "--dead", "--error", "00000000")
    assert (unknown.code, unknown.out) == (2, "")
    assert unknown.err == ("error: no dead letter is of kind `00000000`\nhint: `modalbatch errors` lists the kinds\n")
    assert "add --dead --error 00000000" in modalbatch("cat", "out", "--error", "00000000").err


def test_nothing_went_wrong(tmp_path, monkeypatch, modalbatch) -> None:
    fine = Sample(tmp_path / "fine").write("a.jsonl", 3)
    assert fine.run()["exit_code"] == 0
    monkeypatch.chdir(fine.folder)
    assert modalbatch("errors", "out") == (0, "", "no dead letters · manifest 1\n")
