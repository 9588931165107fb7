"""What Modal's names may be. Runs on: laptop.

Owns the rules for apps, environments and objects; the client knows them, but does not ask them everywhere.
"""

from __future__ import annotations

import re

from modalbatch.engines.local.wire import invalid

_OBJECT = re.compile(r"[a-zA-Z0-9-_.]{1,64}")
_APP_ID = re.compile(r"ap-[a-zA-Z0-9]{22}")
_ENVIRONMENT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-_.]{0,63}")


def check_name(kind: str, name: str) -> None:
    """Refuses what is no name of an app, a volume, a dict, a queue or a secret. Raises: INVALID_ARGUMENT."""
    if not _OBJECT.fullmatch(name) or _APP_ID.fullmatch(name) or name in (".", ".."):
        raise invalid(
            f"invalid {kind} name `{name}`: a name has up to 64 letters, digits, dashes, underscores and periods,"
            " and does not look like the id of an app"
        )


def check_environment(name: str) -> None:
    """Refuses what is no name of an environment. Raises: INVALID_ARGUMENT."""
    if not _ENVIRONMENT.fullmatch(name) or name.lower().startswith("en-"):
        raise invalid(
            f"invalid environment name `{name}`: a name has up to 64 letters, digits, dashes and underscores, begins"
            " with a letter or a digit, and not with `en-`"
        )
