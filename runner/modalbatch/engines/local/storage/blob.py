"""The HTTP side of the protocol: large arguments and results, blocks of volume files. Runs on: laptop.

Owns a server on 127.0.0.1 whose addresses hold an unguessable token, because the client's uploads speak HTTP over TCP
only. It starts with the first address that is asked for: most runs never need it, and aiohttp is slow to import.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

#: Largest body of one upload.
_MAX_BODY_BYTES = 1 << 40
_PIECE_BYTES = 1 << 20


class BlobServer:
    """Serves `home/engine/blobs`, and ranges of volume files."""

    def __init__(self, folder: Path, find_volume_file: Callable[[str, str], Path]) -> None:
        self._folder = folder
        self._find_volume_file = find_volume_file
        self._token = secrets.token_urlsafe(24)
        self._address = ""
        self._runner: Any = None
        self._starting = asyncio.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def sweep(self, kept: set[str]) -> None:
        """Removes what an earlier engine left, except results of spawned calls."""
        for path in self._folder.iterdir():
            if path.name not in kept:
                path.unlink()

    def path(self, name: str) -> Path:
        """The file of a blob."""
        return self._folder / Path(name).name

    async def blob_url(self, name: str) -> str:
        """Where a blob is PUT to and read from."""
        return f"{await self._start()}/blob/{quote(name, safe='')}"

    async def range_url(self, volume_id: str, path: str, start: int, length: int) -> str:
        """Where a range of a volume's file is read from."""
        return f"{await self._start()}/range/{volume_id}/{start}/{length}/{quote(path.lstrip('/'))}"

    async def close(self) -> None:
        """Stops serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _start(self) -> str:
        async with self._starting:
            if not self._address:
                from aiohttp import web

                app = web.Application(client_max_size=_MAX_BODY_BYTES)
                app.router.add_put(f"/{self._token}/blob/{{name}}", self._put)
                app.router.add_get(f"/{self._token}/blob/{{name}}", self._read)
                ranges = f"/{self._token}/range/{{volume}}/{{start}}/{{length}}/{{path:.*}}"
                app.router.add_get(ranges, self._read_range)
                self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
                await self._runner.setup()
                site = web.TCPSite(self._runner, "127.0.0.1", 0)
                await site.start()
                port = self._runner.addresses[0][1]
                self._address = f"http://127.0.0.1:{port}/{self._token}"
        return self._address

    async def _put(self, request: Any) -> Any:
        from aiohttp import web

        path = self.path(request.match_info["name"])
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        digest = hashlib.md5(usedforsecurity=False)
        with draft.open("wb") as file:
            async for piece in request.content.iter_chunked(_PIECE_BYTES):
                digest.update(piece)
                file.write(piece)
        draft.replace(path)
        return web.Response(headers={"ETag": f'"{digest.hexdigest()}"'})

    async def _read(self, request: Any) -> Any:
        from aiohttp import web

        path = self.path(request.match_info["name"])
        return web.FileResponse(path) if path.exists() else web.Response(status=404)

    async def _read_range(self, request: Any) -> Any:
        from aiohttp import web

        info = request.match_info
        path = self._find_volume_file(info["volume"], info["path"])
        with path.open("rb") as file:
            file.seek(int(info["start"]))
            return web.Response(body=file.read(int(info["length"])))
