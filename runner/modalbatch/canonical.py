"""JSON as it stands in a sink: one spelling of each value, sealed, of a format that is known. Runs on: both.

Refuses what is damaged, and newer formats by name. Reads and writes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from modalbatch.errors import StateError

#: Version of receipts, manifests, ledgers and owner.json.
SINK_FORMAT = 1

Json = dict[str, Any]
#: Made once: faster, and not what a handler may have put in the place of `json.dumps` and `json.loads`.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode
decode = json.JSONDecoder().decode


def encode(data: object) -> str:
    """Canonical JSON: sorted keys, no spaces."""
    return _encode(data)


def parse_json(data: bytes, what: str) -> Json:
    """A JSON object.

    Raises:
        StateError: torn or altered.
    """
    try:
        plain = json.loads(data)
    except ValueError as error:
        raise StateError(f"a {what} is torn or altered: {error}") from error
    if not isinstance(plain, dict):
        raise StateError(f"a {what} is altered: not a JSON object")
    return plain


def seal(data: Json) -> bytes:
    """Canonical JSON with the hash of itself: no byte of it can change unseen."""
    return encode({**data, "sha256": _seal_of(data)}).encode()


def unseal(data: bytes, what: str) -> Json:
    """What `seal` wrote.

    Raises:
        StateError: torn, altered or newer.
    """
    plain = parse_json(data, what)
    check_format(plain, what)
    claimed = plain.pop("sha256", None)
    # The second test is for changes that JSON does not see, such as white space.
    if claimed != _seal_of(plain) or seal(plain) != data:
        raise StateError(f"a {what} is altered: its content is not what its hash says")
    return plain


def _seal_of(data: Json) -> str:
    return hashlib.sha256(encode(data).encode()).hexdigest()


def check_format(data: Mapping[str, Any], what: str) -> None:
    """Refuse what a later version wrote.

    Raises:
        StateError: with the hint to upgrade.
    """
    found = data.get("format")
    if found != SINK_FORMAT:
        raise StateError(
            f"this {what} has format {found!r}, this version reads up to {SINK_FORMAT}",
            hint="pip install --upgrade modalbatch",
        )
