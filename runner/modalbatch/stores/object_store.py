"""What stores of objects have in common: a root in a container, and nothing to do where files need care.

Runs on: both. Owns no request.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from modalbatch.errors import ModalbatchError


class ObjectStore(ABC):
    """Objects below one prefix of a container, as Azure calls it, or bucket."""

    def __init__(self, uri: str, *, is_conditional: bool, sleep: Callable[[float], None], page_count: int) -> None:
        scheme, _, place = uri.partition("://")
        self._container, _, prefix = place.partition("/")
        self._prefix = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        self.uri = f"{scheme}://{self._container}/{self._prefix}"
        self.has_conditional_create = is_conditional
        self._sleep, self._page_count = sleep, page_count

    def spool_dir(self) -> Path:
        """The machine's folder for temporary files."""
        return Path(tempfile.gettempdir())

    def commit(self) -> None:  # noqa: B027
        """Nothing: an object is visible when its request is answered."""

    def refresh(self) -> None:  # noqa: B027
        """Nothing: every request sees the newest object."""

    def _translate(self, error: Exception, verb: str, name: str) -> ModalbatchError:
        return error if isinstance(error, ModalbatchError) else self._explain(error, verb, f"{self.uri}{name}")

    @abstractmethod
    def _explain(self, error: Exception, verb: str, uri: str) -> ModalbatchError:
        """What a person can do about a failed request."""
