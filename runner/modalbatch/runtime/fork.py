"""What a fork of a slot may do: anything but the slot's work. Runs on: container.

A handler may fork, and the child may return into our loop with a copy of everything. It shares no way out: the words
that every step of the loop needs are released in it, the socket is closed, and it ends where it would answer. Refuses
nothing to what a child does by itself, as those of `multiprocessing` and `subprocess`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

#: Process id of the slot; none where nobody is guarded.
_slot_pids: list[int] = []
_closers: list[Callable[[], None]] = []
#: What the slot's own handlers would swallow.
_SIGNALS = {signal.SIGTERM, signal.SIGINT}
#: Of the thread that forks, before it does.
_masks: list[set[signal.Signals | int]] = []


def guard(*closers: Callable[[], None]) -> None:
    """From here on every fork of this process calls `closers` first, and ends at `leave`."""
    _slot_pids[:] = [os.getpid()]
    _closers.extend(closers)
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def _before() -> None:
    # A child may be told to end before it has its own way of ending: the signal waits for it.
    _masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS))


def _after_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _after_in_child() -> None:
    """In a fork, or a fork of one."""
    while _closers:
        _closers.pop()()
    # The slot's own do nothing; `terminate` of a pool must work.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def leave() -> None:
    """End this process if it is a fork of a slot: what it brings is nobody's. Says nothing, runs nothing at exit."""
    if _slot_pids and os.getpid() not in _slot_pids:
        os._exit(0)
