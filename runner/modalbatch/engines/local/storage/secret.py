"""Secrets by name: `home/secrets/NAME.env`, else the variables that the app itself asks for. Runs on: laptop.

Owns which values of the laptop's environment may enter a container: those named in `required_keys`, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from modalbatch.engines.local.wire import not_found

_LINE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*?)\s*$")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


def named_secret(folder: Path, name: str, required_keys: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a named secret. Raises: NOT_FOUND that says which file to write."""
    path = folder / f"{name}.env"
    if path.exists():
        values = parse_dotenv(path.read_text())
    elif required_keys and all(key in environ for key in required_keys):
        values = {key: environ[key] for key in required_keys}
    else:
        example = "\n".join(f"{key}=..." for key in required_keys) or "NAME=value"
        raise not_found(f"secret `{name}` is not on this machine\nhint: write {path} with lines like\n{example}")
    missing = [key for key in required_keys if key not in values]
    if missing:
        raise not_found(f"secret `{name}` lacks {', '.join(missing)}\nhint: add it to {path}")
    return values


def parse_dotenv(text: str) -> dict[str, str]:
    """Variables of a dotenv file: `NAME=value`, optional quotes, `#` comments; no interpolation."""
    values = {}
    for line in text.splitlines():
        if found := _LINE.match(line):
            values[found[1]] = _unquote(found[2])
    return values


def _unquote(value: str) -> str:
    if value.startswith("'") and (end := value.find("'", 1)) > 0:
        return value[1:end]
    if found := re.match(r'"((?:[^"\\]|\\.)*)"', value):
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[0]), found[1])
    return re.split(r"\s+#", value)[0].rstrip()
