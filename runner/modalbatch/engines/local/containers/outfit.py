"""What a container is given, as the file that the fork server reads. Runs on: laptop.

Owns a container's arguments, variables and folders: code, volumes, the layers of its image. Starts nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modalbatch.engines.local.containers.container import Container, Reason
from modalbatch.engines.local.containers.guest_isolation import Bind
from modalbatch.engines.local.function import App, Function
from modalbatch.engines.local.images.image import ImageSpec
from modalbatch.engines.local.images.layer import HOME, LayerStore, Scene
from modalbatch.engines.local.images.mount import MountStore
from modalbatch.engines.local.images.provision import Provisioner, remove_quietly
from modalbatch.engines.local.storage.view import Views
from modalbatch.engines.local.storage.volume import mounted_folder
from modalbatch.engines.local.wire import proto
from modalbatch.errors import ModalbatchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Outfitter:
    """Prepares containers, and takes back what they were given."""

    provisioner: Provisioner
    mounts: MountStore
    layers: LayerStore
    views: Views
    home: Path
    run_folder: Path
    engine_id: str
    secret: Callable[[str], Mapping[str, str]]
    volume_folder: Callable[[str], Path]
    layout: Callable[[App, int], object]
    #: Without namespaces, whatever the kernel offers.
    is_plain: bool

    @property
    def scratch(self) -> Path:
        """Becomes the root of containers that need folders which this machine lacks."""
        return self.run_folder / "root"

    def socket_path(self, container: Container) -> Path:
        """The container's own socket."""
        return self.run_folder / container.id

    async def prepare(self, container: Container, environment: Path, *, isolated: bool) -> Path:
        """Writes the container's file; its path. `isolated`: what it writes to volumes and image is kept apart."""
        function, image = container.function, self.provisioner.spec(container.function.definition.image_id)
        is_layered = isolated and needs_layers(function, image)
        root = self.mounts.root(function.definition.mount_ids, image.copies)
        binds = [(source, target, False, "") for source, target in root.binds]
        binds += await self._volume_binds(container, isolated=isolated)
        if not is_layered:
            binds += [(source, target, False, "") for source, target in root.home_binds]
            binds += self._work_bind(container, image, binds)
        _check_nesting(binds)
        environ = self._environ(function, environment, image) | {
            "MODAL_SERVER_URL": f"unix://{self.socket_path(container)}",
            "MODAL_TASK_ID": container.id,
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(self._write_arguments(container)),
            "MODALBATCH_MOUNTS": json.dumps({bind[1]: bind[1] if bind[3] else bind[0] for bind in binds}),
        }
        code = HOME if is_layered else str(root.home)
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [code, environ.get("PYTHONPATH", "")]))
        scene = Scene(
            container_id=container.id,
            layer_ids=image.layers,
            build_id=function.build_id,
            code=root.home,
            environment=environment,
            environ=environ,
        )
        spec = {
            "cwd": str(root.home),
            "workdir": image.workdir or (HOME if is_layered else ""),
            "environ": environ,
            "binds": binds,
            "namespaces": not self.is_plain,
            "path": environ["PYTHONPATH"].split(os.pathsep),
            "scratch": str(self.scratch),
            "layers": self.layers.plan(scene, [self.home, self.run_folder]) if is_layered else None,
        }
        spec_path = self.run_folder / f"{container.id}.spec"
        spec_path.write_text(json.dumps(spec))
        return spec_path

    async def take_back(self, container: Container, code: int) -> None:
        """Removes everything that a container had for itself; it has ended with an exit code."""
        for suffix in ("", ".spec", ".args"):
            remove_quietly(self.run_folder / f"{container.id}{suffix}")
        shutil.rmtree(self.run_folder / f"{container.id}.work", ignore_errors=True)
        # Whoever has ended in order is owed the commit of its end, however long that takes; a killed one loses it.
        is_orderly = container.reason is Reason.STOP or (container.reason is Reason.UNKNOWN and code == 0)
        await self.views.close(container.id, commit=is_orderly)
        await self.layers.release(container.id)

    def _write_arguments(self, container: Container) -> Path:
        function = container.function
        arguments = proto.ContainerArguments(
            task_id=container.id,
            function_id=function.id,
            app_id=function.app.id,
            function_def=function.definition,
            app_layout=self.layout(function.app, function.version),
            serialized_params=function.params,
            environment_name=function.app.environment,
        )
        path = self.run_folder / f"{container.id}.args"
        path.write_bytes(arguments.SerializeToString())
        return path

    async def _volume_binds(self, container: Container, *, isolated: bool) -> list[Bind]:
        """How volumes are mounted: each with what the container writes apart, or as the one folder of all."""
        binds = []
        for mount in container.function.definition.volume_mounts:
            if isolated:
                binds.append(await self.views.open(container.id, mount))
            else:
                folder = mounted_folder(self.volume_folder(mount.volume_id), mount.sub_path or "")
                binds.append((str(folder), mount.mount_path.rstrip("/"), mount.read_only, ""))
        return binds

    def _work_bind(self, container: Container, image: ImageSpec, binds: list[Bind]) -> list[Bind]:
        """A working folder of the container's own, if the image's is nowhere."""
        work, targets = image.workdir, [bind[1] for bind in binds]
        if not work or Path(work).is_dir() or any(work == t or work.startswith(f"{t}/") for t in targets):
            return []
        folder = self.run_folder / f"{container.id}.work"
        folder.mkdir()
        return [(str(folder), work, False, "")]

    def _environ(self, function: Function, environment: Path, image: ImageSpec) -> dict[str, str]:
        environ = dict(self.provisioner.environ)
        path = f"{environment / 'bin'}{os.pathsep}{environ.get('PATH', os.defpath)}"
        environ["PATH"] = path
        for name, value in image.environ.items():
            environ[name] = value.replace("$PATH", path)
        for secret_id in function.definition.secret_ids:
            environ.update(self.secret(secret_id))
        return environ | {
            "MODAL_IS_REMOTE": "1",
            "MODAL_CONFIG_PATH": os.devnull,
            "MODAL_ENVIRONMENT": function.app.environment,
            "MODAL_IMAGE_ID": function.definition.image_id,
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_LOCAL",
            "MODAL_REGION": "local",
            "PYTHONUNBUFFERED": "1",
            "MODALBATCH_LOCAL_ENGINE": self.engine_id,
        }


def _check_nesting(binds: list[Bind]) -> None:
    """Raises: ModalbatchError for a mount within a volume: one of the two would hide or change the other."""
    volumes = [bind[1] for bind in binds if bind[3]]
    for _, target, _, _ in binds:
        for volume in volumes:
            if target.startswith(f"{volume}/"):
                raise ModalbatchError(
                    f"`{target}` lies within the volume at `{volume}`: the local engine mounts nothing there",
                    hint="mount it elsewhere",
                )


def needs_layers(function: Function, image: ImageSpec) -> bool:
    """Whether a function's containers see what build functions have written, or write it."""
    return bool(function.build_id or image.layers)
