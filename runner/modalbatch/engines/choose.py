"""The choice of the engine, and what is known of it before anything talks to it. Runs on: laptop.

Owns the order: the option, `MODALBATCH_ENGINE`, Modal when its client has a token, else local. Imports no modal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalbatch.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib as toml
else:
    import toml

ENGINES = ("local", "modal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An engine, and as whom Modal would know us."""

    kind: str
    #: Name of the profile, which is the workspace's unless somebody renamed it; empty when tokens come by variables.
    workspace: str = ""
    #: The environment that the profile or `MODAL_ENVIRONMENT` names.
    environment: str = ""


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
    return Choice(kind="modal", workspace=workspace, environment=environment)


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
