"""`modalbatch explain`: the schema in words. Runs on: laptop. Owns no text of its own: all of it is the schema's."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from modalbatch.cli import did_you_mean, json_option, print_json
from modalbatch.errors import UsageError
from modalbatch.spec import schema

_NOT_SHOWN = ("properties", "items", "additionalProperties", "propertyNames", "x-instead", "x-later")


@click.command()
@click.argument("key", required=False)
@json_option
def command(key: str | None, as_json: bool) -> None:
    """Explain a KEY of the spec, such as `handler.batch_size`; without KEY list them all."""
    known: dict[str, dict[str, Any]] = {}
    for name, node in schema.walk():
        known.setdefault(name, node)
    if key is None:
        _list(known, as_json)
        return
    wanted = key.strip().strip(".")
    if wanted not in known:
        below = [name for name in known if name.rpartition(".")[2] == wanted]
        close = f"did you mean `{below[0]}`?" if below else did_you_mean(wanted, list(known))
        raise UsageError(f"unknown key `{wanted}`", hint=close or "`modalbatch explain` lists the keys")
    if as_json:
        node = {name: value for name, value in known[wanted].items() if name not in _NOT_SHOWN}
        print_json({"key": wanted, **node})
    else:
        sys.stdout.write(_describe(wanted, known))


def _list(known: dict[str, dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({name: node["description"] for name, node in known.items()})
        return
    width = max(map(len, known))
    for name, node in known.items():
        sys.stdout.write(f"{name:<{width}}  {node['description']}\n")


def _describe(key: str, known: dict[str, dict[str, Any]]) -> str:
    from modalbatch.spec.check import expected, range_words

    node = known[key]
    lines = [key, f"  {node['description']}", ""]
    lines.append(f"  value    {expected(node)}")
    if "enum" not in node and {"minimum", "maximum"} & set(node):
        lines.append(f"  range    {range_words(node)}")
    lines.append(f"  unit     {node['x-unit']}")
    lines.append(f"  default  {_default(node)}")
    last = key.rpartition(".")[2]
    lines += [f"  example  {last}: {_flow(example)}" for example in node["examples"]]
    below = [name for name in known if name.startswith(f"{key}.") and "." not in name[len(key) + 1 :]]
    if below:
        lines += ["", "  keys"]
        width = max(map(len, below))
        lines += [f"    {name:<{width}}  {known[name]['description']}" for name in below]
    return "\n".join(lines) + "\n"


def _default(node: dict[str, Any]) -> str:
    if "default" not in node:
        return "none, the key is required"
    return "none" if node["default"] is None else _flow(node["default"])


def _flow(value: Any) -> str:
    from modalbatch.spec.check import flow_yaml

    return flow_yaml(value) if value not in ("", [], {}) else json.dumps(value)
