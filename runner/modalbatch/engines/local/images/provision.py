"""What an image needs on this machine, and the fork server that runs it. Runs on: laptop.

Owns images by id, the choice of interpreter and environment for each, and one fork server per environment. An
environment that was used before is known by its image's id, so its fork server starts as soon as a client names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from modalbatch.engines.local.containers.forkserver import ForkServer, container_environ
from modalbatch.engines.local.images.environment import EnvironmentCache, EnvironmentSpec
from modalbatch.engines.local.images.image import ImageSpec, read_image
from modalbatch.engines.local.images.interpreter import choose_interpreter
from modalbatch.engines.local.images.managed import ManagedPythons
from modalbatch.engines.local.store import Store
from modalbatch.engines.local.wire import Message, not_found, proto

#: Fork servers kept at a time; each holds about 45 MB, most of it shared with its containers.
_MAX_SERVERS = 4
_IMAGE_PREFIX = "im-"


class Provisioner:
    """Images, their environments, their fork servers."""

    def __init__(
        self,
        *,
        store: Store,
        cache: EnvironmentCache,
        cache_folder: Path,
        pythons: ManagedPythons,
        log_folder: Path,
        environ: Mapping[str, str],
    ) -> None:
        self._store = store
        self._cache = cache
        self._cache_folder = cache_folder
        self._pythons = pythons
        self._environ = environ
        self._log_folder = log_folder
        self.environ = container_environ(environ)
        self._specs: dict[str, ImageSpec] = {}
        self._servers: dict[str, ForkServer] = {}
        self._choosing = asyncio.Lock()
        #: Called with a sentence that a person should know.
        self.note: Callable[[str], None] = lambda _text: None

    def adopt(self, key: str, server: ForkServer) -> None:
        """Takes a fork server that was started before us."""
        self._servers[key] = server

    def add_image(self, image: Message) -> str:
        """Takes a layer; its id, equal for equal layers."""
        # Without secrets: a client makes some anew each time.
        content = proto.Image()
        content.CopyFrom(image)
        del content.secret_ids[:]
        image_id = _IMAGE_PREFIX + hashlib.sha256(content.SerializeToString(deterministic=True)).hexdigest()[:22]
        self.put_image(image_id, image)
        key = self._store.find("used", f"{image_id}-used")
        if key is not None and self._cache.has(key.decode()):
            self._server(key.decode())
        return image_id

    def put_image(self, image_id: str, image: Message) -> None:
        """Keeps a layer under an id."""
        self._store.put("image", image_id, image.SerializeToString(deterministic=True))
        self._specs.pop(image_id, None)

    def python_version(self, image_id: str) -> str:
        """The minor version that an image asks for."""
        return self.spec(image_id).python

    def spec(self, image_id: str) -> ImageSpec:
        """What an image says. Raises: NOT_FOUND for an id of another engine."""
        if image_id not in self._specs:
            layers = image_layers(self._store, image_id)
            self._specs[image_id] = spec = read_image(list(layers.values()), self._python_of_mount)
            spec.layers = [layer_id for layer_id, layer in layers.items() if layer.build_function.definition]
        return self._specs[image_id]

    async def environment(
        self, image_id: str, secret: Callable[[str], Mapping[str, str]], say: Callable[[str], None]
    ) -> Path:
        """The folder of an image's environment, built if need be, with its fork server started.

        Raises: ModalbatchError when it cannot be built.
        """
        spec = self.spec(image_id)
        async with self._choosing:  # the second function of an app need not ask the same executables again
            loop = asyncio.get_running_loop()

            def install(minor: int) -> bool:
                loop.call_soon_threadsafe(say, f"python 3.{minor} is not installed here: asking uv for it")
                return self._pythons.install(minor)

            wanted, note = await asyncio.to_thread(
                choose_interpreter, spec.python, self._cache_folder, self._environ, install
            )
        if note:
            self.note(note)
            say(note)
        plan = EnvironmentSpec(
            interpreter=wanted, modal_version=importlib.metadata.version("modal"), steps=tuple(spec.steps)
        )
        secrets: dict[str, str] = {}
        for step in spec.steps:
            for secret_id in step.secret_ids:
                secrets.update(secret(secret_id))
        path = await self._cache.ensure(plan, secrets, say)
        if self._store.find("used", f"{image_id}-used") != plan.key.encode():
            self._store.put("used", f"{image_id}-used", plan.key.encode())
        if self._store.find("last", "last") != plan.key.encode():
            self._store.put("last", "last", plan.key.encode())
        self._server(plan.key)
        return path

    def server(self, environment: Path) -> ForkServer:
        """The fork server of an environment, a new one if the last has died."""
        return self._server(environment.name)

    def close(self) -> None:
        """Kills every fork server and with them all containers."""
        for server in self._servers.values():
            server.kill()

    def _server(self, key: str) -> ForkServer:
        server = self._servers.pop(key, None)
        if server is None or server.is_dead:
            server = ForkServer(self._cache.path(key) / "bin" / "python", self.environ, self._log_folder / f"{key}.err")
        self._servers[key] = server  # the most recently used is last
        for old in [old for old, other in self._servers.items() if not other.n_containers][: -_MAX_SERVERS or None]:
            self._servers.pop(old).kill()
        return server

    def _python_of_mount(self, mount_id: str) -> str:
        name = self._store.find("mount-name", f"{mount_id}-name") if mount_id else None
        found = re.search(r"python-build-standalone\D*(\d+\.\d+)", name.decode()) if name else None
        return found[1] if found else ""


def image_layers(store: Store, image_id: str) -> dict[str, Message]:
    """An image's layers by id, base first. Raises: NOT_FOUND for an id of another home."""
    layers: dict[str, Message] = {}
    while image_id:
        data = store.find("image", image_id)
        if data is None:
            raise not_found(f"image {image_id} was not made by this engine")
        layers = {image_id: proto.Image.FromString(data), **layers}
        bases = layers[image_id].base_images
        image_id = bases[0].image_id if bases else ""
    return layers


def remove_quietly(path: Path) -> None:
    """Removes a file that may be gone."""
    with contextlib.suppress(OSError):
        path.unlink()
