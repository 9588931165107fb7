"""How many inputs at a time the containers of one function run. Runs on: laptop.

Owns Modal's rule: containers are added up to `target_inputs` each, and what no further container can take goes up to
`max_inputs`. Containers ask and are answered as soon as that differs from what they were told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from modalbatch.engines.local.containers.container import Container


@dataclass(slots=True, eq=False)
class _Wish:
    """A container that wants to know."""

    container: Container
    target: int
    most: int
    answer: asyncio.Future[int]


class Burst:
    """The containers that ask."""

    def __init__(self, load: Callable[[], tuple[int, int]]) -> None:
        """`load`: inputs that run or wait, and the most containers there may be."""
        self._load = load
        self._wishes: list[_Wish] = []

    async def concurrency(self, container: Container, target: int, most: int, limit_s: float) -> int:
        """Inputs that a container should run at a time, when that has changed or after `limit_s`."""
        wish = _Wish(container, target, most, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        self.tell()
        try:
            container.concurrency = await asyncio.wait_for(wish.answer, limit_s)
        except asyncio.TimeoutError:
            return container.concurrency or target
        finally:
            self._wishes.remove(wish)
        return container.concurrency

    def tell(self) -> None:
        """Answers whom the load of now concerns. Order: after each change of what runs or waits."""
        if not self._wishes:
            return
        n_busy, limit = self._load()
        for wish in self._wishes:
            now = wish.most if n_busy > limit * wish.target else wish.target
            if now != (wish.container.concurrency or wish.target) and not wish.answer.done():
                wish.answer.set_result(now)
