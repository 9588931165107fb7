"""The inputs of one function that wait for a container. Runs on: laptop.

Owns their order, and how many of them somebody waits for: Modal's limits differ for those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from modalbatch.engines.local.calls.call import Call, Input


class Waiting:
    """A queue of inputs."""

    def __init__(self) -> None:
        self._items: deque[Input] = deque()
        #: How many belong to calls whose callers wait.
        self.n_sync = 0

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: Input) -> None:
        """Adds an input at the end."""
        self._items.append(item)
        self.n_sync += item.call.is_sync

    def appendleft(self, item: Input) -> None:
        """Adds an input at the front."""
        self._items.appendleft(item)
        self.n_sync += item.call.is_sync

    def popleft(self) -> Input:
        """Takes the first input."""
        item = self._items.popleft()
        self.n_sync -= item.call.is_sync
        return item

    def take(self, call: Call | None = None) -> list[Input]:
        """Takes the inputs of a call, or all."""
        return self.take_if(lambda item: call is None or item.call.id == call.id)

    def take_if(self, accept: Callable[[Input], bool]) -> list[Input]:
        """Takes the inputs that a test accepts."""
        taken = [item for item in self._items if accept(item)]
        self._items = deque(item for item in self._items if not accept(item))
        self.n_sync -= sum(item.call.is_sync for item in taken)
        return taken
