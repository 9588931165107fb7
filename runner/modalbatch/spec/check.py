"""The schema applied to a spec, in plain words. Runs on: laptop.

Owns every mistake that one value (or one map's keys) shows by itself. Refuses validator jargon: each keyword of the
schema has its sentence here. What a value means for other values and files is `compiler.resolve`'s.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from modalbatch import units
from modalbatch.spec import schema, secrecy
from modalbatch.spec.mark import Trail
from modalbatch.spec.problem import Problems, label
from modalbatch.spec.rule import RULES, Finding
from modalbatch.spec.words import listed, meant

Json = dict[str, Any]


def check_tree(problems: Problems) -> None:
    """Report every node that the schema refuses."""
    tree = problems.spec.tree
    _check_text(problems, (), dict(tree))
    for error in _validator().iter_errors(dict(tree)):
        trail = tuple(error.absolute_path)
        if not problems.is_bad(trail):
            _report(problems, error, trail)


def _check_text(problems: Problems, trail: Trail, value: Any) -> None:
    """Secrets and templates, in any text of the spec."""
    if isinstance(value, str):
        kind = secrecy.secret_kind(value)
        if kind:
            hint = "put it into a Modal secret and name that under `secrets` or `credentials`"
            problems.add(trail, f"this looks like {kind}; a spec holds no secrets", hint, is_secret=True)
        elif "${{" in value:
            problems.add(trail, "templates (`${{ … }}`) are not supported by this version", "write the value out")
    elif isinstance(value, dict):
        for key, item in value.items():
            if secrecy.secret_kind(key):
                problems.add((*trail, key), "this key looks like a secret", "remove it", at_key=True, is_secret=True)
            else:
                _check_text(problems, (*trail, key), item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_text(problems, (*trail, i), item)


@functools.cache
def _validator() -> Any:
    checker = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: isinstance(value, (int, float)) and not isinstance(value, bool),
        }
    )
    extend: Any = validators.extend
    extra = {"x-unit": _check_unit, "x-check": _check_rule}
    return extend(Draft202012Validator, validators=extra, type_checker=checker)(schema.job_schema())


def _check_unit(_validator: Any, unit: str, value: Any, node: Json) -> Iterator[ValidationError]:
    """The range of a quantity that is written as text."""
    if isinstance(value, str) and {"minimum", "maximum"} & set(node):
        number = quantity(value, unit)
        if number is not None and not node.get("minimum", 0) <= number <= node.get("maximum", float("inf")):
            yield ValidationError("range")


def _check_rule(_validator: Any, name: str, value: Any, _node: Json) -> Iterator[ValidationError]:
    for finding in RULES[name](value):
        # `cause` carries the finding through jsonschema's own plumbing of paths.
        yield ValidationError(name, cause=_Carrier(finding))


class _Carrier(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def quantity(text: str, unit: str) -> float | None:
    """A quantity written as text, in the unit of its bare numbers; None when it is not one."""
    try:
        if unit == "seconds":
            return units.parse_seconds(text)
        if unit == "MiB":
            return units.parse_bytes(text) / units.MIB
        return float(units.parse_bytes(text)) if unit == "bytes" else None
    except ValueError:
        return None


def _report(problems: Problems, error: ValidationError, trail: Trail) -> None:
    node: Any = error.schema
    value: Any = error.instance
    keyword = str(error.validator)
    if isinstance(error.cause, _Carrier):
        found = error.cause.finding
        at_key = found.at_key
        if "propertyNames" in error.absolute_schema_path:
            trail, at_key = (*trail, value), True
        if problems.is_bad((*trail, *found.below)):
            return
        message = found.message.replace("{key}", label(trail))
        problems.add((*trail, *found.below), message, found.hint, at_key=at_key)
    elif "propertyNames" in error.absolute_schema_path:
        message = f"the key {secrecy.shown(value)} of `{label(trail)}` must be {node.get('x-expected', 'another')}"
        problems.add((*trail, value), message, None, at_key=True)
    elif keyword == "additionalProperties":
        for key in value:
            if key not in node["properties"]:
                _report_unknown(problems, (*trail, key), node)
    elif keyword == "required":
        _report_missing(problems, error, trail, node)
    else:
        _report_value(problems, keyword, trail, value, node)


def _report_unknown(problems: Problems, trail: Trail, node: Json) -> None:
    key = str(trail[-1])
    inside = f" in `{label(trail[:-1])}`" if len(trail) > 1 else ""
    if key in node.get("x-later", ()):
        hint: str | None = f"`{key}` is not supported by this version"
    elif key in node.get("x-instead", {}):
        hint = f"did you mean `{node['x-instead'][key]}`?"
    else:
        hint = meant(key, node["properties"]) or _elsewhere(key, trail)
    if hint is None:
        few = len(node["properties"]) <= 10
        hint = f"known keys: {listed(node['properties'], 'and')}" if few else "`modalbatch explain` lists the keys"
    problems.add(trail, f"unknown key {secrecy.shown(key)}{inside}", hint, at_key=True)


def _elsewhere(key: str, trail: Trail) -> str | None:
    """A hint for a known key in the wrong map."""
    for name, _ in schema.walk():
        parent, _, last = name.rpartition(".")
        if last == key and name.count(".") <= 1 and parent != label(trail[:-1]):
            return f"`{key}` belongs under `{parent}`" if parent else f"`{key}` belongs at the top level"
    return None


def _report_missing(problems: Problems, error: ValidationError, trail: Trail, node: Json) -> None:
    missing = next(key for key in node["required"] if f"'{key}'" == error.message.split(" is a required")[0])
    given: Any = error.instance
    if any(key in node.get("x-later", ()) for key in given) and trail:
        problems.spoil((*trail, missing))
        return
    for key in given:
        # `sorce` explains why `source` is missing; one mistake, one message.
        near = node.get("x-instead", {}).get(key) or (meant(key, node["properties"]) or "").partition("`")[2][:-2]
        if key not in node["properties"] and near == missing:
            problems.spoil((*trail, missing))
            return
    inside = f" in `{label(trail)}`" if trail else ""
    example = schema.node((*trail, missing)).get("examples") or node["properties"][missing]["examples"]
    hint = f"add `{missing}: {flow_yaml(example[0])}`"
    problems.add(trail, f"missing key `{missing}`{inside}", hint, at_key=bool(trail), spoils=(*trail, missing))


def _report_value(problems: Problems, keyword: str, trail: Trail, value: Any, node: Json) -> None:
    name = label(trail)
    raw = problems.spec.raw(trail)
    if node.get("x-sensitive"):
        problems.add(trail, f"`{name}` must be {node['x-expected']}", is_secret=True)
        return
    found = secrecy.shown(raw or value) if not isinstance(value, (list, dict)) else _kind(value)
    if value is None or value == "":
        problems.add(trail, f"`{name}` is empty, it must be {expected(node)}", _example(trail, node))
    elif keyword == "type" and _needs_quotes(value, raw, node):
        kind = f"the number {found}" if not isinstance(value, bool) else found
        quoted = f'quote it: `"{secrecy.printable(raw)[:60]}"`'
        problems.add(trail, f"`{name}` must be text, not {kind}", quoted)
    elif keyword in ("type", "enum") and isinstance(value, str) and node.get("enum") == [1]:
        problems.add(trail, f"`{name}` must be the number `1`, not text", "for example `version: 1`")
    elif keyword == "type":
        problems.add(trail, f"`{name}` must be {expected(node)}, not {found}", _type_hint(trail, value, node))
    elif keyword == "enum":
        if name == "version" and isinstance(value, int) and value > 1:
            problems.add(trail, f"this spec has version {value}, this modalbatch reads version 1", "upgrade modalbatch")
            return
        hint = meant(value, node["enum"]) if isinstance(value, str) else None
        problems.add(trail, f"`{name}` must be {listed(map(str, node['enum']))}, not {found}", hint)
    elif keyword == "pattern":
        problems.add(trail, f"`{name}` must be {expected(node)}, not {found}", _example(trail, node))
    elif keyword in ("minimum", "maximum", "x-unit"):
        hint = None
        if node.get("x-unit") == "MiB" and isinstance(value, int):
            hint = f"bare numbers are MiB: `{value}GiB`?" if value < node["minimum"] else None
        problems.add(trail, f"`{name}` must be {range_words(node)}, not {found}", hint)
    elif keyword == "maxLength":
        problems.add(trail, f"`{name}` has at most {node['maxLength']} characters, this has {len(value)}")
    elif keyword == "uniqueItems":
        problems.add(trail, f"`{name}` lists {secrecy.shown(_twice(value))} twice", "keep one of them")
    elif keyword in ("minItems", "maxItems") and node.get("maxItems") == 2:
        problems.add(trail, f"`{name}` must be {expected(node)}, not a list of {len(value)}", _example(trail, node))
    else:
        assert keyword in ("minLength", "minItems"), keyword
        problems.add(trail, f"`{name}` is empty, it must be {expected(node)}", _example(trail, node))


_TYPE_WORDS = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "`true` or `false`",
    "array": "a list", "object": "a map",
}  # fmt: skip


def expected(node: Json) -> str:
    """What a value must be, in words."""
    if "x-expected" in node:
        return str(node["x-expected"])
    if "enum" in node:
        return listed(map(str, node["enum"]))
    types = node.get("type", "string")
    return " or ".join(_TYPE_WORDS[name] for name in ([types] if isinstance(types, str) else types))


def _kind(value: Any) -> str:
    if not value:
        return "an empty list" if isinstance(value, list) else "an empty map"
    return "a list" if isinstance(value, list) else "a map"


def _needs_quotes(value: Any, raw: str, node: Json) -> bool:
    """Whether a number or boolean would be right as text."""
    types = node.get("type", ())
    if not isinstance(value, (bool, int, float)) or "string" not in types or "integer" in types:
        return False
    fits = "pattern" not in node or re.search(node["pattern"], raw)
    return bool(fits) and not ("x-check" in node and any(RULES[node["x-check"]](raw)))


def _type_hint(trail: Trail, value: Any, node: Json) -> str | None:
    if isinstance(value, str) and "array" in node.get("type", ()) and "string" in node["items"].get("type", ()):
        return f"write `[{secrecy.printable(value)[:60]}]`"
    return _example(trail, node)


def _example(trail: Trail, node: Json) -> str | None:
    """`for example …` with the first example of the node."""
    if not node.get("examples"):
        return None
    return f"for example `{trail[-1]}: {flow_yaml(node['examples'][0])}`"


def flow_yaml(value: Any) -> str:
    """Short flow YAML of an example."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow_yaml(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.replace(".", "").isdigit():
        return f'"{value}"'
    return str(value)


def range_words(node: Json) -> str:
    """`1 s to 24 h`."""
    low, high = (_amount(node[side], node.get("x-unit")) if side in node else "" for side in ("minimum", "maximum"))
    return f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"


def _amount(number: float, unit: str | None) -> str:
    if unit == "seconds":
        return f"{number // 3600:.0f} h" if number >= 3600 else f"{number:g} s"
    if unit in ("MiB", "bytes"):
        n_bytes = number * units.MIB if unit == "MiB" else number
        for name, size in (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
            if n_bytes >= size:
                return f"{n_bytes / size:g} {name}"
    return f"{number:g}"


def _twice(items: list[Any]) -> Any:
    return next(item for i, item in enumerate(items) if item in items[:i])
