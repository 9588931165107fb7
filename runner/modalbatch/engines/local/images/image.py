"""An image's layers, read as what one machine can honour. Runs on: laptop.

Owns the meaning of the Dockerfile lines that the client sends: interpreter, Python packages, ENV, WORKDIR, copied
files. Everything else (apt, shell commands, registry layers) is listed as not run. Reads no files, builds nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from modalbatch.engines.local.wire import Message

_PIP = re.compile(r"^(?:python3? -m pip|pip3?|(?:\S*/)?uv pip) install\s+(.*)$", re.DOTALL)
_SYNC = re.compile(r"^(?:\S*/)?uv sync\s+(.*)$", re.DOTALL)
_BASE_PYTHON = re.compile(r"^FROM python:(\d+\.\d+)", re.IGNORECASE)
#: Options of pip and uv that mean nothing here, with the number of values that follow.
_DROPPED = {
    "--compile-bytecode": 0,
    "--system": 0,
    "--no-cache-dir": 0,
    "--no-cache": 0,
    "--quiet": 0,
    "-q": 0,
    "--disable-pip-version-check": 0,
    "--no-input": 0,
    "--break-system-packages": 0,
    "--python": 1,
    "--root-user-action": 1,
    "--project": 1,
}
_FILE_OPTIONS = ("-r", "--requirement", "--requirements", "-c", "--constraint", "--constraints")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One installation of Python packages."""

    #: "pip" for `uv pip install`, "sync" for `uv sync`.
    tool: str
    #: uv's arguments; a requirements file is named as in `files`.
    arguments: tuple[str, ...]
    #: Files that the arguments mean, by name.
    files: tuple[tuple[str, bytes], ...] = ()
    #: Secrets whose variables the installation sees.
    secret_ids: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class ImageSpec:
    """What the engine does for an image."""

    #: "3.12", or empty when no layer says.
    python: str = ""
    steps: list[Step] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    #: (mount id, folder in the container) of `add_local_*(copy=True)`.
    copies: list[tuple[str, str]] = field(default_factory=list)
    #: Images among the layers that a build function has made, base first.
    layers: list[str] = field(default_factory=list)
    #: Lines that are not run here.
    ignored: list[str] = field(default_factory=list)


def read_image(layers: Sequence[Message], python_of_mount: Callable[[str], str]) -> ImageSpec:
    """The sum of an image's layers, base first; `python_of_mount` names the version of a standalone Python mount."""
    spec = ImageSpec()
    for layer in layers:
        _Layer(layer, spec, python_of_mount).read()
    return spec


class _Layer:
    """One layer while it is read into the spec."""

    def __init__(self, layer: Message, spec: ImageSpec, python_of_mount: Callable[[str], str]) -> None:
        self._layer = layer
        self._spec = spec
        self._python_of_mount = python_of_mount
        self._is_base = not layer.base_images
        self._context = {item.filename: item.data for item in layer.context_files}
        self._files: dict[str, bytes] = {}

    def read(self) -> None:
        """Adds this layer to the spec."""
        for line in _lines(self._layer.dockerfile_commands):
            word, _, rest = line.partition(" ")
            reader = getattr(self, f"_read_{word.lower()}", None)
            if reader is not None:
                reader(rest.strip())
            elif not self._is_base:
                self._spec.ignored.append(line)

    def _read_from(self, rest: str) -> None:
        if found := _BASE_PYTHON.match(f"FROM {rest}"):
            self._spec.python = found[1]
        elif self._is_base:
            self._spec.ignored.append(f"FROM {rest}")

    def _read_env(self, rest: str) -> None:
        words = shlex.split(rest)
        pairs = [word.partition("=")[::2] for word in words] if "=" in words[0] else [(words[0], " ".join(words[1:]))]
        for name, value in pairs:
            # PATH is the container's own, known when it starts.
            self._spec.environ[name] = expand(value, {"PATH": "$PATH", **self._spec.environ})

    def _read_workdir(self, rest: str) -> None:
        path = "".join(shlex.split(rest))
        self._spec.workdir = path if path.startswith("/") else f"{self._spec.workdir or '/root'}/{path}"

    def _read_copy(self, rest: str) -> None:
        words = [word for word in shlex.split(rest) if not word.startswith("--")]
        if "--from=" in rest or len(words) != 2:
            return
        source, target = words
        if source in self._context:
            self._files[target] = self._context[source]
        elif python := self._python_of_mount(self._layer.context_mount_id):
            self._spec.python = python
        elif source == "." and self._layer.context_mount_id:
            self._spec.copies.append((self._layer.context_mount_id, target))
        elif not self._is_base:
            self._spec.ignored.append(f"COPY {rest}")

    def _read_run(self, rest: str) -> None:
        if self._is_base:
            return  # the base image's own set-up: its packages are not the user's
        command = " ".join(rest.replace("$(command -v python)", "python").split()) if "\n" not in rest else rest
        words = _shell_words(command)
        if words is None:
            self._spec.ignored.append(f"RUN {rest}")
        elif found := _PIP.match(command):
            self._install("pip", _shell_words(found[1]) or [])
        elif found := _SYNC.match(command):
            self._install("sync", _shell_words(found[1]) or [])
        elif "uv" not in words[0] or len(words) > 1:
            self._spec.ignored.append(f"RUN {rest}")

    def _install(self, tool: str, words: list[str]) -> None:
        arguments, files = _uv_arguments(words, self._files)
        if tool == "sync":
            files = {name: self._files.get(f"/.uv/{name}", b"") for name in ("pyproject.toml", "uv.lock")}
        self._spec.steps.append(
            Step(
                tool=tool,
                arguments=tuple(arguments),
                files=tuple(sorted((name, data) for name, data in files.items() if data)),
                secret_ids=tuple(self._layer.secret_ids),
            )
        )

    # Lines that describe the image rather than change it.
    def _read_cmd(self, rest: str) -> None: ...

    _read_entrypoint = _read_shell = _read_label = _read_expose = _read_cmd


def expand(value: str, environ: Mapping[str, str]) -> str:
    """Replaces `$NAME` and `${NAME}` as Docker does in ENV; unknown names become empty."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: environ.get(found[1] or found[2], ""), value)


def _lines(commands: Sequence[str]) -> list[str]:
    """Dockerfile commands without comments, continued lines joined."""
    text = re.sub(r"\\\s*\n", " ", "\n".join(command.rstrip() for command in commands))
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def _shell_words(command: str) -> list[str] | None:
    """The words of one plain command; None when it needs a shell."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return None
    needs_shell = any(set(word) <= set("();<>|&") or "$(" in word or "`" in word for word in words)
    return None if needs_shell or not words else words


def _uv_arguments(words: list[str], files: Mapping[str, bytes]) -> tuple[list[str], dict[str, bytes]]:
    """Arguments of pip or uv as uv's, and the files that they name, renamed to plain names."""
    arguments: list[str] = []
    used: dict[str, bytes] = {}
    rest = iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        if name in _DROPPED and name.startswith("-"):
            if _DROPPED[name] and not value:
                next(rest, None)
        elif word == "--pre":
            arguments += ["--prerelease", "allow"]
        elif name in _FILE_OPTIONS:
            path = value or next(rest, "")
            plain = f"{len(used)}-{path.rsplit('/', 1)[-1]}"
            used[plain] = files.get(path, f"# {path} is not in the image's context\n".encode())
            arguments += ["-c" if "c" in name[:3] else "-r", plain]
        else:
            arguments.append(word)
    return arguments, used
