"""The way of a container's output into its app's log. Runs on: laptop."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os

from modalbatch.engines.local.containers.container import Container
from modalbatch.engines.local.containers.log import MAX_ENTRY_BYTES


class LogPipe:
    """Carries one stream of a container into its app's log."""

    def __init__(self, container: Container, stream: int) -> None:
        self._container = container
        self._stream = stream
        self._read_end, self.write_end = os.pipe()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        os.set_blocking(self._read_end, False)
        asyncio.get_running_loop().add_reader(self._read_end, self._read)

    def close(self) -> None:
        """Takes what is still in the pipe, then lets go of it."""
        if self._read_end < 0:
            return
        with contextlib.suppress(OSError):
            while self._read():
                continue
        self._end()

    def _read(self) -> bool:
        if self._read_end < 0:
            return False
        try:
            data = os.read(self._read_end, MAX_ENTRY_BYTES)
        except BlockingIOError:
            return False
        text = self._decoder.decode(data, final=not data)
        if text:
            function = self._container.function
            function.app.log.write(text, stream=self._stream, task_id=self._container.id, function_id=function.id)
        if not data:
            self._end()
        return bool(data)

    def _end(self) -> None:
        if self._read_end >= 0:
            asyncio.get_running_loop().remove_reader(self._read_end)
            os.close(self._read_end)
            self._read_end = -1
