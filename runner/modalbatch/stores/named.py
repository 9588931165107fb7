"""Values of secrets, by the names of environment variables that a spec gives. Runs on: both."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from modalbatch.errors import UnavailableError

if TYPE_CHECKING:
    from modalbatch.job import Credentials


def named_variable(credentials: Credentials, name: str) -> str:
    """The value of a variable that `credentials` names.

    Raises:
        UnavailableError: it is not set.
    """
    if name not in os.environ:
        where = f"the secret `{credentials.secret}`" if credentials.secret else "`credentials`"
        raise UnavailableError(f"`{name}` of {where} is not set", hint=f"export {name}=…, or add it to the secret")
    return os.environ[name]
