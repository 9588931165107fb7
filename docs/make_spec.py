"""`docs/spec.md`, from the schema: the same words that `modalbatch explain` prints. With `--check` it compares only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from generated import write_or_check

from modalbatch.spec import schema
from modalbatch.spec.check import expected, flow_yaml, range_words

#: Units that a reader needs; the others only say what the value line says.
_UNITS = ("seconds", "MiB", "bytes", "cores")
PAGE = Path(__file__).with_name("spec.md")
HEAD = """\
# The spec

Every key of a spec, from [its schema](../schemas/job.v1.schema.json); `modalbatch explain KEY` prints the same on a
terminal. This page is written by `docs/make_spec.py`: change the schema, then `make format`.

The names are Modal's own keyword names wherever Modal has one. A bare number is in the unit of its line; sizes and
durations may also be written as `128MiB` and `10m`. Paths are relative to the spec's folder. A key that is not on this
page is an error, not ignored.

```yaml
version: 1
name: wordcount
handler: handlers:count          # module:function, relative to the spec's folder
source: data/*.jsonl
sink: out/
```
"""


def page() -> str:
    """The whole page."""
    keys: dict[str, dict[str, Any]] = {}
    for name, node in schema.walk():
        keys.setdefault(name, node)
    return HEAD + "".join(_section(name, node, keys) for name, node in keys.items())


def _section(key: str, node: dict[str, Any], keys: dict[str, dict[str, Any]]) -> str:
    depth = key.count(".") + 2
    lines = ["", f"{'#' * min(depth, 4)} `{key}`", "", node["description"], ""]
    value = expected(node)
    if "enum" not in node and {"minimum", "maximum"} & set(node):
        value += f"; {range_words(node)}"
    lines.append(f"- Value: {value}")
    if node["x-unit"] in _UNITS:
        lines.append(f"- Unit: {node['x-unit']}")
    if "default" not in node:
        lines.append("- Required" if "." not in key else "- Required in its map")
    elif node["default"] is not None:
        lines.append(f"- Default: `{_flow(node['default'])}`")
    last = key.rpartition(".")[2]
    lines += [f"- Example: `{last}: {_flow(example)}`" for example in node["examples"]]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    return {"": '""', "[]": "[]", "{}": "{}"}.get(str(value)) or str(flow_yaml(value))


def main() -> int:
    """Writes the page, or with `--check` says how it differs."""
    return write_or_check(PAGE, page())


if __name__ == "__main__":
    sys.exit(main())
