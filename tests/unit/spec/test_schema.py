"""The schema: complete, closed, true, and read."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from modalbatch.spec import schema
from modalbatch.spec.rule import RULES

ALL = list(schema.walk())
FUTURE = ["extends", "params", "matrix", "schedule", "serve", "setup", "finish", "notify", "tests"]
FUTURE += ["budget_usd", "deadline"]


def nodes(node):
    yield node
    for name in ("items", "additionalProperties", "propertyNames"):
        if isinstance(node.get(name), dict):
            yield from nodes(node[name])
    for sub in node.get("properties", {}).values():
        yield from nodes(sub)


def test_it_is_a_schema_of_2020_12():
    assert schema.job_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema.job_schema())


def test_the_shipped_file_is_the_one_of_the_repository():
    root = Path(__file__).resolve().parents[3]
    assert schema.schema_text() == (root / "schemas" / schema.NAME).read_text()


@pytest.mark.parametrize(("name", "node"), ALL, ids=[name for name, _ in ALL])
def test_every_key_says_what_it_is(name, node):
    assert node["description"].endswith(".")
    assert node["x-unit"]
    assert node["examples"]
    assert ("default" in node) or any(name.rpartition(".")[2] in sub.get("required", ()) for sub in parents(name))
    for value in node["examples"] + [node[key] for key in ("default",) if node.get(key) is not None]:
        assert not list(Draft202012Validator(node).iter_errors(value)), value


def parents(name):
    path = name.rpartition(".")[0]
    return [node for key, node in [("", schema.job_schema()), *ALL] if key == path] + [
        inner for key, node in ALL if key == path for inner in nodes(node)
    ]


def test_every_map_is_closed():
    for node in nodes(schema.job_schema()):
        if "properties" in node:
            assert node["additionalProperties"] is False


def test_every_rule_is_used_and_every_use_has_a_rule():
    assert {node["x-check"] for node in nodes(schema.job_schema()) if "x-check" in node} == set(RULES)


def test_patterns_refuse_a_line_break_at_the_end():
    for node in nodes(schema.job_schema()):
        if "pattern" in node:
            assert "$(?!\\n)" in node["pattern"], node["pattern"]


def test_keys_of_later_versions_are_not_in_it():
    assert schema.job_schema()["x-later"] == FUTURE
    assert not set(FUTURE) & set(schema.job_schema()["properties"])


def test_the_words_for_other_tools_keys_lead_to_keys():
    for node in nodes(schema.job_schema()):
        assert set(node.get("x-instead", {}).values()) <= set(node.get("properties", {}))
        assert not set(node.get("x-instead", {})) & set(node.get("properties", {}))


def test_it_is_laid_out_for_diffs():
    text = schema.schema_text()
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


def test_a_trail_leads_to_a_node():
    assert schema.node(("image", "pip", 0, "index_url"))["x-unit"] == "URL"
    assert schema.node(("handler", "args", "anything")) == {}
