"""Proxy tokens: who may use a web function with `requires_proxy_auth=True`. Runs on: laptop.

Owns the file `home/proxy-tokens`, which only its owner can read: one token a line. It is read at every request, so an
edited file counts at once; like every secret of a home it can be written by hand.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from modalbatch.engines.local.wire import mint_id

_HEADER = (
    "# Who may use web functions with requires_proxy_auth: Modal-Key Modal-Secret [unix time] [name], one a line.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyToken:
    """A pair of words that opens the web functions of a home."""

    #: What is sent as `Modal-Key`, `wk-…`.
    key: str
    #: What is sent as `Modal-Secret`, `ws-…`.
    secret: str
    #: Unix time of its creation; 0 where a person wrote the line.
    created_at: float = 0.0
    name: str = ""


class ProxyTokens:
    """The tokens of a home."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ensure(self) -> None:
        """Makes the file, with one token, the first time that there is something to protect."""
        if not self.path.exists():
            self.create("")

    def all(self) -> list[ProxyToken]:
        """Every token, oldest first."""
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [token for line in lines if (token := _read(line))]

    def create(self, name: str) -> ProxyToken:
        """A new random token."""
        token = ProxyToken(key=mint_id("wk"), secret=mint_id("ws"), created_at=time.time(), name=name)
        self._write([*self.all(), token])
        return token

    def rename(self, key: str, name: str) -> ProxyToken | None:
        """Gives a token another name; none if there is no such token."""
        tokens = {token.key: token for token in self.all()}
        if key not in tokens:
            return None
        tokens[key] = replace(tokens[key], name=name)
        self._write(list(tokens.values()))
        return tokens[key]

    def delete(self, key: str) -> bool:
        """Removes a token; whether there was one."""
        tokens = self.all()
        kept = [token for token in tokens if token.key != key]
        self._write(kept)
        return len(kept) < len(tokens)

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Why a request is not let in; none if it is."""
        key, secret = _credentials(headers)
        if not key or not secret:
            return "missing credentials for proxy authorization"
        given = f"{key}.{secret}".encode()
        # No early end: how long it takes must not say which token is nearly right.
        matches = [hmac.compare_digest(given, f"{token.key}.{token.secret}".encode()) for token in self.all()]
        return None if any(matches) else "invalid credentials for proxy authorization"

    def _write(self, tokens: list[ProxyToken]) -> None:
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        lines = [f"{token.key} {token.secret} {token.created_at:.0f} {token.name}".rstrip() for token in tokens]
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(_HEADER + "".join(f"{line}\n" for line in lines))
        draft.replace(self.path)


def _read(line: str) -> ProxyToken | None:
    words = line.split(maxsplit=3)
    if len(words) < 2 or words[0].startswith("#"):
        return None
    made = words[2] if len(words) > 2 and words[2].isdigit() else "0"
    name = words[3] if len(words) > 3 else ""
    return ProxyToken(key=words[0], secret=words[1], created_at=float(made), name=name)


def _credentials(headers: Mapping[str, str]) -> tuple[str, str]:
    """Key and secret of a request: two headers, or both in one, joined by a dot."""
    key, secret = headers.get("Modal-Key", ""), headers.get("Modal-Secret", "")
    kind, _, rest = headers.get("Authorization", "").partition(" ")
    if not key and not secret and kind.lower() == "bearer":
        key, _, secret = rest.strip().partition(".")
    return key, secret
