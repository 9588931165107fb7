"""The choice of the engine, and what is known of it before anything talks to it. Runs on: laptop.

Owns the order: the option, `MODALBATCH_ENGINE`, Modal when its client has a token, else local. Imports no modal.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modalbatch.errors import UnavailableError, UsageError

if sys.version_info >= (3, 11):
    import tomllib as toml
else:
    import toml

ENGINES = ("local", "modal")
_SERVER_URL = "https://api.modal.com"
#: Seconds for one look whether Modal is there.
_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An engine, and as whom Modal would know us."""

    kind: str
    #: Name of the profile, which is the workspace's unless somebody renamed it; empty when tokens come by variables.
    workspace: str = ""
    #: The environment that the profile or `MODAL_ENVIRONMENT` names.
    environment: str = ""
    #: Where Modal's client would connect to.
    server_url: str = ""


def choose_engine(given: str | None, environ: Mapping[str, str]) -> Choice:
    """The engine to use.

    Raises:
        UsageError: the name is unknown, or Modal is asked for and its client has no token.
    """
    named = given or environ.get("MODALBATCH_ENGINE")
    if named and named not in ENGINES:
        where = "`--engine`" if given else "`MODALBATCH_ENGINE`"
        raise UsageError(f"{where} is `{named}`, expected `local` or `modal`", hint="--engine local")
    if named == "local":
        return Choice(kind="local")
    profile, settings = _profile(environ)
    has_token = _has(environ, settings, "token_id") and _has(environ, settings, "token_secret")
    has_token = has_token or bool(environ.get("MODAL_OAUTH_REFRESH_TOKEN"))
    if not has_token and named == "modal":
        raise UsageError(
            "Modal's client has no token here", hint="`modal setup` makes one, or run on this machine: --engine local"
        )
    if not has_token:
        return Choice(kind="local")
    environment = environ.get("MODAL_ENVIRONMENT") or str(settings.get("environment") or "")
    workspace = "" if environ.get("MODAL_TOKEN_ID") else profile
    server_url = environ.get("MODAL_SERVER_URL") or str(settings.get("server_url") or _SERVER_URL)
    return Choice(kind="modal", workspace=workspace, environment=environment, server_url=server_url)


def check_reachable(choice: Choice, environ: Mapping[str, str]) -> None:
    """Whether anybody listens where Modal should: its own client tries for a minute before it says so.

    Raises:
        UnavailableError: nobody does.
    """
    parts = urlsplit(choice.server_url)
    if any(environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return  # the client knows its way, we do not
    try:
        if parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(parts.path)
        else:
            port = parts.port or (80 if parts.scheme == "http" else 443)
            socket.create_connection((parts.hostname or "", port), _CONNECT_S).close()
    except OSError as error:
        raise UnavailableError(
            f"Modal cannot be reached at {parts.hostname or parts.path}: {error.strerror or error}",
            hint="check the network, then apply again; or run on this machine: --engine local",
        ) from error


def _has(environ: Mapping[str, str], settings: Mapping[str, Any], name: str) -> bool:
    return bool(environ.get(f"MODAL_{name.upper()}") or settings.get(name))


def _profile(environ: Mapping[str, str]) -> tuple[str, Mapping[str, Any]]:
    """Name and settings of the profile that Modal's client would use."""
    path = Path(environ.get("MODAL_CONFIG_PATH") or "~/.modal.toml").expanduser()
    try:
        profiles: dict[str, Any] = toml.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return "", {}
    except ValueError as error:
        raise UsageError(f"`{path}` cannot be read: {error}", hint="`modal setup` writes it anew") from error
    profiles = {name: values for name, values in profiles.items() if isinstance(values, dict)}
    active = [name for name, values in profiles.items() if values.get("active") is True]
    name = environ.get("MODAL_PROFILE") or (active[0] if active else "default")
    return name, profiles.get(name, {})
