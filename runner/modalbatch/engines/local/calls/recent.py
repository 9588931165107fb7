"""Replies that were given just now, for requests that come twice. Runs on: laptop.

Owns what makes a repeated request harmless: a client that did not get a reply sends its request again under the same
idempotency key, and what it asked for must not be done again. Bounded in number and bytes; a repetition comes within a
second.
"""

from __future__ import annotations

from collections import OrderedDict

from modalbatch.engines.local.wire import Message

_MAX_REPLIES = 1024
_MAX_BYTES = 8 << 20


class Recent:
    """The latest replies by idempotency key."""

    def __init__(self) -> None:
        self._replies: OrderedDict[str, tuple[Message, int]] = OrderedDict()
        self._bytes = 0

    def has(self, key: str) -> bool:
        """Whether a request was answered before."""
        return key in self._replies

    def reply(self, key: str) -> Message:
        """How it was answered."""
        return self._replies[key][0]

    def keep(self, key: str, reply: Message, *, size_bytes: int = 0) -> Message:
        """Takes a reply, and returns it; `size_bytes` for one that may be large."""
        if key and key not in self._replies:
            self._replies[key] = (reply, size_bytes)
            self._bytes += size_bytes
            while len(self._replies) > _MAX_REPLIES or self._bytes > _MAX_BYTES:
                _, (_, gone_bytes) = self._replies.popitem(last=False)
                self._bytes -= gone_bytes
        return reply
