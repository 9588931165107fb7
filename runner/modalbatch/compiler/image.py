"""The image as a chain of Modal's own methods. Runs on: laptop.

Owns the order of the layers and which method a key of `image:` is. Refuses methods that are not in `modal_table`: a
method's or a parameter's name is code, everything else is a literal.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Mapping
from typing import Any

from modalbatch.compiler.layout import Chain, Group, Node, Under, call, literal, quote
from modalbatch.compiler.objects import secret, secret_list, volume_map
from modalbatch.errors import UsageError
from modalbatch.job import Image, Job
from modalbatch.spec import modal_table

#: What the runtime imports in containers; the versions of `uv.lock`.
RUNTIME_PACKAGES = {"backports.zstd": "1.8.0", "isal": "1.9.1", "msgspec": "0.22.0", "smart-open": "9.0.2"}
#: Scheme of a source or sink → what it imports as well.
STORE_PACKAGES = {
    "s3": {"boto3": "1.44.5"},
    "az": {"azure-identity": "1.27.0", "azure-storage-blob": "12.31.1"},
    "gs": {"google-cloud-storage": "3.17.1"},
}

_BASES = {
    "registry": "from_registry",
    "dockerfile": "from_dockerfile",
    "name": "from_name",
    "ecr": "from_aws_ecr",
    "gcp": "from_gcp_artifact_registry",
}
#: Parameters of Image methods that are local paths.
_PATHS = {
    "local_path", "pyproject_toml", "requirements_txt", "poetry_pyproject_toml", "poetry_lockfile", "uv_project_dir",
    "context_dir", "spec_file",
}  # fmt: skip
#: Image methods whose only parameter is a list.
_LIST_METHODS = {"cmd", "entrypoint", "shell"}


def is_plain(image: Image) -> bool:
    """Whether the workers' image installs nothing but the runtime: then the driver runs in it too."""
    built = (image.apt, image.pip, image.requirements, image.run, image.layers, image.pipe)
    return image.base == "debian_slim" and not any(built)


def worker_image(job: Job) -> Chain:
    """Base, the layers in the order of the spec's keys, the runtime's packages, local files."""
    image = job.image
    first, entrypoint = base(image)
    calls = [*entrypoint, *build_steps(image)]
    mounts = [_add_local(entry) for entry in image.add_local]
    for entry in image.layers:
        # Files that are not copied are mounted on start; Modal allows nothing after them but more of them.
        (mounts if _is_mounted(entry) else calls).append(layer(entry))
    if image.pipe:
        calls.append(call(".pipe", call("modalbatch.pipe", quote(image.pipe))))
    return Chain(first, (*calls, _runtime_packages(job), *mounts, _local_source(job)))


def driver_image(job: Job) -> Chain:
    """A small image for the driver, which never imports the handler but hashes its mounted source."""
    first = call("modal.Image.debian_slim", python_version=quote(job.image.python))
    return Chain(first, (_runtime_packages(job), _local_source(job)))


def base(image: Image) -> tuple[Group, list[Group]]:
    """The call that starts the chain, and `.entrypoint(…)` if the spec replaces it."""
    if image.base == "debian_slim":
        return call("modal.Image.debian_slim", python_version=quote(image.python)), []
    given = dict(image.base) if isinstance(image.base, dict) else {}
    kind = next((name for name in _BASES if name in given), None)
    if kind is None:
        raise UsageError("`image.base` names none of `debian_slim`, " + ", ".join(f"`{name}`" for name in _BASES))
    what = given.pop(kind)
    entrypoint = given.pop("entrypoint", None)
    if kind == "dockerfile":
        given |= {"path": what} if isinstance(what, str) else what
        what = given.pop("path")
        given.setdefault("context_dir", ".")  # Modal's default is the folder in which the command runs
    source = _path(what) if kind == "dockerfile" else quote(what)
    first = call(f"modal.Image.{_BASES[kind]}", source, **_parameters(given))
    return first, [] if entrypoint is None else [call(".entrypoint", literal(entrypoint))]


def build_steps(image: Image) -> Iterator[Group]:
    """The layers that have keys of their own, in the order of the keys."""
    if image.apt:
        yield call(".apt_install", *map(quote, image.apt))
    for entry in image.pip:
        yield call(".uv_pip_install", *map(quote, entry["packages"]), **_parameters(_without(entry, "packages")))
    required = image.requirements or {}
    if "uv_sync" in required:
        yield call(".uv_sync", call("str", _path(required["uv_sync"])))
    elif required:
        yield call(".uv_pip_install", **_parameters({"requirements": [required["path"]]}))
    for entry in image.run:
        yield call(".run_commands", quote(entry["command"]), **_parameters(_without(entry, "command")))
    if image.env:
        yield call(".env", literal(image.env))
    if image.workdir:
        yield call(".workdir", quote(image.workdir))


def layer(entry: Mapping[str, Any]) -> Group:
    """One item of `image.layers`: `{method: [args]}`, `{method: {parameter: value}}` or `{method: {args, kwargs}}`."""
    method, given = next(iter(entry.items()))
    if method not in modal_table.IMAGE_METHODS:
        hint = "use `image.pipe`; a layer is one of " + ", ".join(sorted(modal_table.IMAGE_METHODS))
        raise UsageError(f"`image.layers`: `{method}` cannot be a layer", hint=hint)
    names = modal_table.IMAGE_METHODS[method][0]
    args, kwargs = _arguments(method, given)
    if names[0].startswith("*"):  # such a parameter is no keyword in Python
        positional = [literal(item) for item in (*args, *kwargs.pop(names[0][1:], ()))]
    else:
        positional = [_argument(name, item, method) for name, item in zip(names, args, strict=False)]
    return call(f".{method}", *positional, **_parameters(kwargs, method))


def _runtime_packages(job: Job) -> Group:
    packages = dict(RUNTIME_PACKAGES)
    for uri in (*job.source.uris, job.sink.uri):
        packages |= STORE_PACKAGES.get(uri.partition("://")[0], {})
    return call(".uv_pip_install", *(quote(f"{name}=={packages[name]}") for name in sorted(packages)))


def _local_source(job: Job) -> Group:
    return call(".add_local_python_source", quote("modalbatch"), *map(quote, job.modules))


def _add_local(entry: Mapping[str, Any]) -> Group:
    # `resolve` has seen the file system and writes folders with a slash at the end.
    method = ".add_local_dir" if entry["local"].endswith("/") else ".add_local_file"
    return call(method, _path(entry["local"].rstrip("/")), quote(entry["remote"]))


def _is_mounted(entry: Mapping[str, Any]) -> bool:
    method, given = next(iter(entry.items()))
    return method.startswith("add_local_") and not _arguments(method, given)[1].get("copy")


def _arguments(method: str, given: Any) -> tuple[list[Any], dict[str, Any]]:
    if isinstance(given, Mapping) and isinstance(given.get("args", given.get("kwargs")), (list, Mapping)):
        return list(given.get("args", ())), dict(given.get("kwargs", {}))
    if isinstance(given, Mapping):
        return ([given], {}) if method == "env" else ([], dict(given))
    is_one = isinstance(given, str) or (method in _LIST_METHODS and all(isinstance(item, str) for item in given))
    return ([given] if is_one else list(given)), {}


def _parameters(given: Mapping[str, Any], method: str = "") -> dict[str, Node]:
    for name in given:
        if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
            raise UsageError(f"`{name}` is not the name of a parameter")
    return {name: _argument(name, given[name], method) for name in sorted(given)}


def _argument(name: str, value: Any, method: str) -> Node:
    """The object that Modal wants for a name or path of the spec, else the value itself."""
    if name == "secret":
        return secret(value)
    if name == "secrets":
        return secret_list(value)
    if name == "volumes":
        return volume_map(value)
    if name == "requirements":
        files = [value] if isinstance(value, str) else value
        return Group("[", tuple(("", call("str", _path(item))) for item in files), "]")
    if name in _PATHS and isinstance(value, str):
        # The installers want strings; what mounts files takes any path.
        return _path(value) if method.startswith("add_local_") or not method else call("str", _path(value))
    return literal(value)


def _path(relative: str) -> Node:
    return Under("SPEC_DIR", relative) if relative.strip("./") else "SPEC_DIR"


def _without(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in names}
