"""From a container on paper to a process. Runs on: laptop.

Owns everything that a container is given: its socket, arguments, variables, folders and log pipes; and takes it all
back when it has ended.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from modalbatch.engines.local.containers.container import Container
from modalbatch.engines.local.containers.log import MAX_ENTRY_BYTES
from modalbatch.engines.local.function import App, Function
from modalbatch.engines.local.images.image import ImageSpec
from modalbatch.engines.local.images.layer import HOME, LayerStore, Scene
from modalbatch.engines.local.images.mount import MountStore, Root
from modalbatch.engines.local.images.provision import Provisioner, remove_quietly
from modalbatch.engines.local.service import Service
from modalbatch.engines.local.wire import failure, proto
from modalbatch.errors import ModalbatchError

_NO_NAMESPACES = (
    "containers have no namespaces of their own here: they see each other's processes, and a volume is not at its mount"
    " path but where the variable MODALBATCH_MOUNTS (JSON, by mount path) says"
)
_NO_OVERLAYS = (
    "the kernel gives no overlays here: what run_function writes is not part of the image but stays where it was"
    " written: on this machine's own file system, files with relative names in the folder of the function's code"
)
_log = logging.getLogger("modalbatch.engine")


class Launcher:
    """Starts containers."""

    def __init__(
        self,
        *,
        provisioner: Provisioner,
        mounts: MountStore,
        layers: LayerStore,
        home: Path,
        run_folder: Path,
        engine_id: str,
        secret: Callable[[str], Mapping[str, str]],
        volume_folder: Callable[[str], Path],
        layout: Callable[[App], object],
        is_plain: bool,
    ) -> None:
        self._provisioner = provisioner
        self._mounts = mounts
        self._layers = layers
        self._home = home
        self._run_folder = run_folder
        self._engine_id = engine_id
        self._secret = secret
        self._volume_folder = volume_folder
        self._layout = layout
        self._is_plain = is_plain
        self._tasks: set[asyncio.Task[None]] = set()
        #: Set when the service exists: it serves the containers' sockets too.
        self.service: Service
        (run_folder / "root").mkdir(exist_ok=True)

    def launch(self, container: Container) -> None:
        """Starts a container in the background; its pool hears of the end, whatever it is."""
        self._run(self._start(container))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, container: Container) -> None:
        function = container.function
        socket_path = self._run_folder / container.id
        try:
            environment = await self._provisioner.environment(
                function.definition.image_id, self._secret, function.app.tell_once
            )
            is_layered = await self._is_layered(function)
            listener = await self.service.listen(str(socket_path))
        except Exception as error:
            _log.exception("cannot prepare %s", container.id)
            text = error.message if isinstance(error, ModalbatchError) else repr(error)
            container.result = failure(text)
            function.pool.on_exit(container, -1)
            return
        spec_path = self._write_spec(container, environment, socket_path, is_layered=is_layered)
        logs = [LogPipe(container, stream) for stream in (proto.FILE_DESCRIPTOR_STDOUT, proto.FILE_DESCRIPTOR_STDERR)]

        def ended(code: int) -> None:
            for log in logs:
                log.close()
            listener.close()
            for suffix in ("", ".spec", ".args"):
                remove_quietly(socket_path.with_name(container.id + suffix))
            shutil.rmtree(socket_path.with_name(f"{container.id}.work"), ignore_errors=True)
            self._run(self._layers.release(container.id))
            function.pool.on_exit(container, code)

        server = self._provisioner.server(environment)
        try:
            await server.start(container.id, spec_path, [log.write_end for log in logs], ended)
            if self._is_plain or not server.has_namespaces:
                self._provisioner.note(_NO_NAMESPACES)
                function.app.tell_once(_NO_NAMESPACES)
        except ModalbatchError as error:
            container.result = failure(error.message)
            ended(-1)
            return
        finally:
            for log in logs:
                os.close(log.write_end)
        container.send_signal = lambda number: server.signal(container.id, number)
        if container.is_draining and not container.is_ready:  # stopped while it was being prepared
            container.kill(container.reason)

    async def _is_layered(self, function: Function) -> bool:
        """Whether a function's containers write over layers; where that cannot be, the log says what it means."""
        if not function.build_id and not self._provisioner.spec(function.definition.image_id).layers:
            return False
        if not self._is_plain and await self._layers.has_overlays():
            return True
        function.app.tell_once(_NO_OVERLAYS)
        return False

    def _write_spec(self, container: Container, environment: Path, socket_path: Path, *, is_layered: bool) -> Path:
        function, d = container.function, container.function.definition
        arguments = proto.ContainerArguments(
            task_id=container.id,
            function_id=function.id,
            app_id=function.app.id,
            function_def=d,
            app_layout=self._layout(function.app),
            serialized_params=function.params,
            environment_name=function.app.environment,
        )
        arguments_path = socket_path.with_name(f"{container.id}.args")
        arguments_path.write_bytes(arguments.SerializeToString())
        image = self._provisioner.spec(d.image_id)
        root = self._mounts.root(d.mount_ids, image.copies)
        binds = self._binds(container, root, image)
        if not is_layered:
            binds += [(source, target, False) for source, target in root.home_binds]
            binds += self._work_bind(container, image, binds)
        code = HOME if is_layered else str(root.home)
        environ = self._environ(function, environment, image)
        environ |= {
            "MODAL_SERVER_URL": f"unix://{socket_path}",
            "MODAL_TASK_ID": container.id,
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(arguments_path),
            "MODALBATCH_MOUNTS": json.dumps({target: source for source, target, _ in binds}),
            "PYTHONPATH": os.pathsep.join(filter(None, [code, environ.get("PYTHONPATH", "")])),
        }
        spec = {
            "cwd": str(root.home),
            "workdir": image.workdir or (HOME if is_layered else ""),
            "environ": environ,
            "binds": binds,
            "namespaces": not self._is_plain,
            "path": environ["PYTHONPATH"].split(os.pathsep),
            "scratch": str(self._run_folder / "root"),
            "layers": None,
        }
        if is_layered:
            scene = Scene(
                container_id=container.id,
                layer_ids=image.layers,
                build_id=function.build_id,
                code=root.home,
                environment=environment,
                environ=environ,
            )
            spec["layers"] = self._layers.plan(scene, [self._home, self._run_folder])
        spec_path = socket_path.with_name(f"{container.id}.spec")
        spec_path.write_text(json.dumps(spec))
        return spec_path

    def _binds(self, container: Container, root: Root, image: ImageSpec) -> list[tuple[str, str, bool]]:
        binds = [(source, target, False) for source, target in root.binds]
        for mount in container.function.definition.volume_mounts:
            folder = self._volume_folder(mount.volume_id) / (mount.sub_path or "").lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            binds.append((str(folder), mount.mount_path.rstrip("/"), mount.read_only))
        return binds

    def _work_bind(
        self, container: Container, image: ImageSpec, binds: list[tuple[str, str, bool]]
    ) -> list[tuple[str, str, bool]]:
        """A working folder of the container's own, if the image's is nowhere."""
        targets = [target for _, target, _ in binds]
        work = image.workdir
        if work and not Path(work).is_dir() and not any(work == t or work.startswith(f"{t}/") for t in targets):
            folder = self._run_folder / f"{container.id}.work"
            folder.mkdir()
            return [(str(folder), work, False)]
        return []

    def _environ(self, function: Function, environment: Path, image: ImageSpec) -> dict[str, str]:
        environ = dict(self._provisioner.environ)
        path = f"{environment / 'bin'}{os.pathsep}{environ.get('PATH', os.defpath)}"
        environ["PATH"] = path
        for name, value in image.environ.items():
            environ[name] = value.replace("$PATH", path)
        for secret_id in function.definition.secret_ids:
            environ.update(self._secret(secret_id))
        return environ | {
            "MODAL_IS_REMOTE": "1",
            "MODAL_CONFIG_PATH": os.devnull,
            "MODAL_ENVIRONMENT": function.app.environment,
            "MODAL_IMAGE_ID": function.definition.image_id,
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_LOCAL",
            "MODAL_REGION": "local",
            "PYTHONUNBUFFERED": "1",
            "MODALBATCH_LOCAL_ENGINE": self._engine_id,
        }


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
