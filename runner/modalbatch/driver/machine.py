"""What a driver has of the machine below it: threads, clocks, chance, a scratch file. Runs on: both.

Owns nothing of the run: a simulation puts a machine of its own in place.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

from modalbatch.driver.tables import open_database


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The real one, unless said otherwise."""

    #: A pool of so many threads with that name.
    executor: Callable[[int, str], Executor] = ThreadPoolExecutor
    #: Wall clock, seconds since the epoch: for people only, it may jump.
    now: Callable[[], float] = time.time
    #: Seconds that only grow.
    monotonic: Callable[[], float] = time.monotonic
    #: So many random bytes, in hex.
    token: Callable[[int], str] = secrets.token_hex
    #: An empty database for an index.
    database: Callable[[], sqlite3.Connection] = open_database
