"""An app's log: what its containers and the engine said. Runs on: laptop.

Owns one file per app, from which every reader reads; memory does not grow with it, and its size has a limit: what
containers print beyond it is not kept. An entry's id is the file position after it, so a reader that comes back
continues exactly where it stopped.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from modalbatch.engines.local.wire import Message, proto

_LENGTH = struct.Struct(">I")
#: Bytes of one entry; longer output becomes several entries.
MAX_ENTRY_BYTES = 65536
#: Bytes of a log after which only the engine's own words are added.
MAX_LOG_BYTES = 256 << 20


class AppLog:
    """Append-only log of one app."""

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._is_full = False
        self._waiters: set[asyncio.Future[None]] = set()
        self._is_done = False

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return self._is_done

    def write(
        self,
        text: str,
        *,
        stream: int = proto.FILE_DESCRIPTOR_INFO,
        task_id: str = "",
        function_id: str = "",
        call_id: str = "",
    ) -> None:
        """Adds an entry; `stream` is a FILE_DESCRIPTOR value (stdout, stderr, or info for the engine's own words)."""
        is_output = stream != proto.FILE_DESCRIPTOR_INFO
        if self._is_full and is_output:
            return
        item = proto.TaskLogs(
            data=text, file_descriptor=stream, timestamp=time.time(), function_call_id=call_id, container_id=task_id
        )
        batch = proto.TaskLogsBatch(task_id=task_id, function_id=function_id, items=[item])
        data = batch.SerializeToString()
        with self._path.open("ab") as file:
            file.write(_LENGTH.pack(len(data)) + data)
            size = file.tell()
        if is_output and size >= self._max_bytes:
            self._is_full = True
            self.write(f"modalbatch: this log has reached {size >> 20} MiB: what is printed from here on is not kept\n")
        self._wake()

    def finish(self) -> None:
        """Tells readers that the app is over."""
        self._is_done = True
        self._wake()

    def read(self, position: int) -> Iterator[Message]:
        """Entries from a file position on, each with its `entry_id`; lazy, single pass."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(position)
            while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
                batch = proto.TaskLogsBatch.FromString(file.read(_LENGTH.unpack(head)[0]))
                batch.entry_id = str(file.tell())
                yield batch

    def last(self, limit: int, accept: Callable[[Message], bool]) -> list[Message]:
        """The last `limit` entries that a filter accepts, oldest first."""
        return list(deque((batch for batch in self.read(0) if accept(batch)), maxlen=limit or None))

    async def wait(self, limit_s: float) -> None:
        """Returns when something was added or the app is over, or after `limit_s`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait_for(waiter, limit_s)
        except asyncio.TimeoutError:
            return
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
