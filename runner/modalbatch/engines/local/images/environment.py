"""Image environments: one virtual environment per interpreter, modal version and package list. Runs on: laptop.

Owns the cache folder `envs/<key>`, shared by every home of a user. An environment is built in a temporary folder and
appears by rename, so it is never seen half-built. Inherits neither packages nor variables of the laptop.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modalbatch.engines.local.containers.guest_isolation import die_with_parent
from modalbatch.engines.local.images.image import Step
from modalbatch.engines.local.images.interpreter import Interpreter
from modalbatch.errors import ModalbatchError

#: Raised when the way of building changes, so that old environments are not taken for new ones.
_FORMAT = 1
#: Variables that a build sees besides what uv is told: where to fetch from, and how.
_BUILD_PREFIXES = ("UV_", "PIP_", "SSL_CERT_", "NETRC")
_BUILD_NAMES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)

_UV_NAMES = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where environments live: $MODALBATCH_CACHE, else modalbatch's folder in the user's cache."""
    if chosen := environ.get("MODALBATCH_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base) / "modalbatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """What decides an environment's content."""

    interpreter: Interpreter
    modal_version: str
    steps: tuple[Step, ...]

    @property
    def key(self) -> str:
        """Hash of the content; the folder's name."""
        facts: list[object] = [_FORMAT, self.interpreter.path, self.interpreter.version, self.modal_version]
        for step in self.steps:
            facts.append([step.tool, step.arguments, [[name, data.hex()] for name, data in step.files]])
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


class EnvironmentCache:
    """The environments of one cache folder."""

    def __init__(self, folder: Path, uv_path: str, environ: Mapping[str, str]) -> None:
        self._folder = folder / "envs"
        self._uv_path = uv_path
        self._environ = build_environ(environ)
        self._locks: dict[str, asyncio.Lock] = {}

    def path(self, key: str) -> Path:
        """Where the environment of a key is, or will be."""
        return self._folder / key

    def has(self, key: str) -> bool:
        """Whether it is there; if it is, it is whole."""
        return self.path(key).exists()

    async def ensure(self, spec: EnvironmentSpec, secrets: Mapping[str, str], say: Callable[[str], None]) -> Path:
        """The environment's folder, built if need be; only one builder works at a time, in any process.

        Raises: ModalbatchError with uv's own words.
        """
        path = self.path(spec.key)
        async with self._locks.setdefault(spec.key, asyncio.Lock()):
            if path.exists():
                with contextlib.suppress(OSError):  # of another user
                    os.utime(path)  # when it was last used: `prune.py` asks
                return path
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / f"{spec.key}.lock").open("w")
            try:
                await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
                if not path.exists():
                    for old in self._folder.glob(f"{spec.key}.draft-*"):  # of a builder that was killed
                        shutil.rmtree(old, ignore_errors=True)
                    say(f"building the image's environment: {_describe(spec)}")
                    await self._build(spec, path, secrets)
            finally:
                lock.close()
        return path

    async def _build(self, spec: EnvironmentSpec, path: Path, secrets: Mapping[str, str]) -> None:
        draft = Path(tempfile.mkdtemp(prefix=f"{spec.key}.draft-", dir=self._folder))
        environ = {**self._environ, **secrets}
        python = str(draft / "env" / "bin" / "python")
        try:
            venv = ["venv", "--quiet", "--no-config", "--relocatable", "--python", spec.interpreter.path]
            await self._uv([*venv, str(draft / "env")], draft, environ)
            install = ["pip", "install", "--quiet", "--compile-bytecode", "--python", python]
            await self._uv([*install, f"modal=={spec.modal_version}"], draft, environ)
            for step in spec.steps:
                arguments = step.arguments
                for name, data in step.files:
                    (draft / name).write_bytes(data)
                if step.tool == "sync":
                    arguments = await self._export(step, draft, python, environ)
                await self._uv([*install, *arguments], draft, environ)
            (draft / "env").rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    async def _export(self, step: Step, folder: Path, python: str, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Turns `uv sync` of a project's files into a requirements file for the one environment."""
        kept = [word for word in step.arguments if word != "--no-install-workspace"]
        command = ["export", "--quiet", "--no-emit-workspace", "--no-hashes", "--python", python]
        command += ["--output-file", "project.txt"]
        await self._uv([*command, *kept], folder, environ)
        return ("-r", "project.txt")

    async def _uv(self, arguments: Sequence[str], folder: Path, environ: Mapping[str, str]) -> None:
        process = await asyncio.create_subprocess_exec(
            self._uv_path,
            *arguments,
            cwd=folder,
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode != 0:
            raise ModalbatchError(
                f"the image's environment cannot be built: `uv {' '.join(_public(arguments))}` says\n"
                + output.decode(errors="replace").strip()
            )


def _public(arguments: Iterable[str]) -> list[str]:
    """Arguments without what is ours, and without index URLs, which may hold a password."""
    return ["***" if "://" in word else word for word in arguments if word not in ("--quiet", "--compile-bytecode")]


def _describe(spec: EnvironmentSpec) -> str:
    words = [word for step in spec.steps for word in _public(step.arguments)]
    return f"python {spec.interpreter.version}, modal {spec.modal_version}" + (f", {' '.join(words)}" if words else "")


def build_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the laptop's environment a build sees."""
    kept = {name: value for name, value in environ.items() if name in _BUILD_NAMES or name.startswith(_BUILD_PREFIXES)}
    # uv does not read pip's variables; a company's index is often set only there.
    for pip_name, uv_name in _UV_NAMES.items():
        if environ.get(pip_name) and uv_name not in kept:
            kept[uv_name] = environ[pip_name]
    kept["UV_PYTHON_DOWNLOADS"] = "never"  # which Python is used is decided before; without one uv fetches its own
    return kept
