"""What real runs leave in a sink conforms to the public schemas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from sample_sink import Sample, filled

SCHEMAS = Path(__file__).resolve().parents[3] / "schemas"


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.v1.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Sample:
    """Two runs, with dead letters and a changed input; and a third that a fence stopped."""
    made = filled(tmp_path_factory.mktemp("sink"), bad=2)
    made.write("a.jsonl", 20)
    made.run()
    made.allow(0)
    made.write("a.jsonl", 21)
    made.run()
    return made


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("receipt", "_modalbatch/receipts/*.json"),
        ("receipt", "_modalbatch/manifest-*.jsonl"),
        ("manifest", "_modalbatch/manifest-*.json"),
        ("owner", "_modalbatch/owner.json"),
        ("ledger", "_modalbatch/runs/*/ledger-*.jsonl"),
    ],
)
def test_runs_conform(made: Sample, name: str, pattern: str) -> None:
    paths = sorted(made.out.glob(pattern))
    assert paths
    check = validator(name)
    for path in paths:
        for line in path.read_text().splitlines():
            data = json.loads(line)
            assert list(check.iter_errors(data)) == []
            unknown = set(data) - set(check.schema["properties"])
            assert not unknown or name == "ledger"


def test_a_receipt_of_a_retry_conforms(tmp_path: Path) -> None:
    made = filled(tmp_path, bad=2)
    made.write("e.jsonl", 4, bad=1, start=9000)
    made.run()
    handler = made.folder / "sample_handlers.py"
    handler.write_text(handler.read_text().replace('record.get("bad")', 'record.get("id") == 9003'))
    assert made.run(retry={"error": None})["live"]["dead"] == 1
    receipts = [json.loads(path.read_text()) for path in (made.out / "_modalbatch/receipts").glob("*.json")]
    (retried,) = [receipt for receipt in receipts if receipt.get("spread")]
    assert retried["replaces"]
    check = validator("receipt")
    assert [list(check.iter_errors(receipt)) for receipt in receipts] == [[]] * len(receipts)


@pytest.mark.parametrize("name", ["receipt", "manifest", "owner"])
def test_each_required_key_is_required(made: Sample, name: str) -> None:
    pattern = {"receipt": "receipts/*.json", "manifest": "manifest-*.json", "owner": "owner.json"}[name]
    path = sorted(made.out.glob(f"_modalbatch/{pattern}"))[0]
    check = validator(name)
    for key in check.schema["required"]:
        data = json.loads(path.read_text())
        del data[key]
        assert [error.message for error in check.iter_errors(data)] == [f"'{key}' is a required property"]


def test_every_ledger_event_that_was_seen_is_described(made: Sample) -> None:
    described = {item["if"]["properties"]["event"]["const"] for item in validator("ledger").schema["allOf"]}
    lines = [
        line for path in made.out.glob("_modalbatch/runs/*/ledger-*.jsonl") for line in path.read_text().splitlines()
    ]
    seen = {json.loads(line)["event"] for line in lines}
    assert {"driver_started", "split_done", "published", "driver_ended"} <= seen <= described


def test_every_property_is_described_or_plain() -> None:
    for name in ("receipt", "manifest", "owner", "ledger"):
        schema = validator(name).schema
        assert schema["description"].endswith(".")
        assert schema["properties"]["format"]["const"] == 1
