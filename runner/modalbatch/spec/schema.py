"""The schema of a spec, from `schemas/job.v1.schema.json`. Runs on: laptop.

Owns finding the file in a wheel or a checkout and walking its keys. The file is the one source of what keys exist,
their types, ranges and words: errors, `explain` and editors read it. Its own keywords: `x-unit`, `x-expected` (what a
value must be, in words), `x-check` (a rule of `spec.rule`), `x-sensitive` (never echo), `x-instead` (other tools'
names for keys), `x-later` (keys of later versions).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

Json = dict[str, Any]
NAME = "job.v1.schema.json"


def schema_text() -> str:
    """The schema as shipped: beside the package in a wheel, in `schemas/` in a checkout."""
    packaged = resources.files("modalbatch") / "schemas" / NAME
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).resolve().parents[3] / "schemas" / NAME).read_text(encoding="utf-8")


@functools.cache
def job_schema() -> Json:
    """The schema as plain data; one object, not to be changed."""
    data: Json = json.loads(schema_text())
    return data


def walk(schema: Json | None = None, prefix: str = "") -> Iterator[tuple[str, Json]]:
    """Every key with its schema, depth first: `handler`, `handler.call`, …; list items are looked through."""
    schema = job_schema() if schema is None else schema
    for name, sub in schema.get("properties", {}).items():
        yield prefix + name, sub
        yield from walk(sub, f"{prefix}{name}.")
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield from walk(schema[inner], prefix)


def node(trail: tuple[str | int, ...]) -> Json:
    """The schema of the node at a trail; empty for free data."""
    schema = job_schema()
    for step in trail:
        if isinstance(step, int):
            found = schema.get("items")
        else:
            found = schema.get("properties", {}).get(step, schema.get("additionalProperties"))
        if not isinstance(found, dict):
            return {}
        schema = found
    return schema
