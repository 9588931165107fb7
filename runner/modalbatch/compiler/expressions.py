"""What each hole of `app.py.j2` holds: a Job's parts as calls of Modal's client. Runs on: laptop.

Owns which call of Modal a key of the spec is. Refuses names that are not Modal's: a method or a keyword is code, so it
comes from a list here or must be an identifier; everything else is a literal.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modalbatch.compiler.layout import (
    WIDTH,
    Chain,
    Group,
    Node,
    Under,
    call,
    fit,
    flat,
    literal,
    mapping,
    nodes,
    quote,
)
from modalbatch.errors import UsageError
from modalbatch.job import Compute, Image, Job, SecretRef, VolumeRef, load, volume_paths

#: What the runtime imports in containers; the versions of `uv.lock`.
RUNTIME_PACKAGES = {"backports.zstd": "1.8.0", "isal": "1.9.1", "msgspec": "0.22.0", "smart-open": "9.0.2"}
#: What it imports as well when a source or a sink is on S3.
S3_PACKAGES = {"boto3": "1.44.5"}
#: How long the driver and `inspect` may take: Modal's maximum, and what a listing of a large bucket needs.
DRIVE_TIMEOUT_S, INSPECT_TIMEOUT_S = 86400, 3600

#: Methods of `modal.Image` that `image.layers` may name, with the leading parameters of theirs that are local paths.
LAYER_METHODS: dict[str, tuple[str, ...]] = {
    "add_local_dir": ("local_path",),
    "add_local_file": ("local_path",),
    "add_local_python_source": (),
    "apt_install": (),
    "cmd": (),
    "dockerfile_commands": (),
    "entrypoint": (),
    "env": (),
    "micromamba_install": (),
    "pip_install": (),
    "pip_install_from_pyproject": ("pyproject_toml",),
    "pip_install_from_requirements": ("requirements_txt",),
    "pip_install_private_repos": (),
    "poetry_install_from_file": ("poetry_pyproject_toml", "poetry_lockfile"),
    "run_commands": (),
    "shell": (),
    "uv_pip_install": (),
    "uv_sync": ("uv_project_dir",),
    "workdir": (),
}
_PATH_KEYWORDS = {"context_dir", "spec_file", *(name for names in LAYER_METHODS.values() for name in names)}
#: Keywords of `app.cls` that the app decides itself, or that other keys of the spec set.
_DECIDED = {
    "image", "env", "secrets", "gpu", "serialized", "volumes", "cpu", "memory", "ephemeral_disk", "min_containers",
    "max_containers", "buffer_containers", "scaledown_window", "retries", "timeout", "startup_timeout", "cloud",
    "region", "include_source", "network_file_systems", "max_inputs",
}  # fmt: skip


def job_literal(job: Job) -> Node:
    """The job as `Job.from_json` reads it: its fields in their order, maps inside them by key."""
    return mapping(job.to_json())


def app_call(job: Job) -> Node:
    """`modal.App(…)`."""
    tags: dict[str, Node] = {"tags": literal(job.tags)} if job.tags else {}
    return call("modal.App", quote(job.name), **tags)


def shared(job: Job) -> dict[str, Node]:
    """The objects that more than one decorator uses, by the name of their variable; absent when the job needs none."""
    found: dict[str, Node] = {}
    if job.env:
        found["env"] = literal(job.env)
    if secrets := _secrets(job):
        found["secrets"] = Group("[", tuple(("", secret(item)) for item in secrets), "]")
    data = {path: _data_volume(job, name) for name, path in volume_paths(job).items()}
    rest = {path: volume(job.volumes[path]) for path in sorted(job.volumes) if path not in data}
    if data:
        found["data_volumes"] = nodes(data)
    if rest:
        merged = nodes(rest)
        found["volumes"] = Group("{", (("**", "data_volumes"), *merged.items), "}") if data else merged
    found["image"] = worker_image(job)
    if not is_plain(job.image):
        found["driver_image"] = driver_image(job)
    return found


def worker_call(job: Job, names: Mapping[str, Node]) -> Node:
    """`@app.cls(…)`: image, resources and limits of the workers."""
    volumes = "volumes" if "volumes" in names else "data_volumes"
    compute = job.compute
    given: dict[str, Node] = {"image": "image", **_same(names, "env", "secrets")}
    if volumes in names:
        given["volumes"] = volumes
    given |= {name: literal(value) for name, value in _resources(compute) if value is not None}
    for name in sorted(compute.modal):
        given[_keyword(name, refused=_DECIDED)] = _extra(name, compute.modal[name])
    return call("@app.cls", **given)


def function_call(names: Mapping[str, Node], timeout_s: int) -> Node:
    """`@app.function(…)` of the driver and of `inspect`: the job's data and secrets, not its resources."""
    image = "driver_image" if "driver_image" in names else "image"
    given: dict[str, Node] = {"image": image, **_same(names, "env", "secrets")}
    if "data_volumes" in names:
        given["volumes"] = "data_volumes"
    return call("@app.function", **given, timeout=literal(timeout_s))


def is_plain(image: Image) -> bool:
    """Whether the workers' image installs nothing but the runtime: then the driver runs in it too."""
    built = (image.apt, image.pip, image.requirements, image.run, image.layers, image.pipe)
    return image.base == "debian_slim" and not any(built)


def worker_image(job: Job) -> Node:
    """The image chain: base, the layers in the order of the spec's keys, the runtime's packages, local files."""
    image = job.image
    first, entrypoint = base(image)
    calls = [*entrypoint, *build_steps(image)]
    mounts = [_mount(entry) for entry in image.add_local]
    for entry in image.layers:
        # Files that are not copied are mounted on start; Modal allows nothing after them but more of them.
        (mounts if _is_mounted(entry) else calls).append(layer(entry))
    if image.pipe:
        calls.append(call(".pipe", call("modalbatch.pipe", quote(image.pipe))))
    return Chain(first, (*calls, _runtime_packages(job), *mounts, _local_source(job)))


def driver_image(job: Job) -> Node:
    """A small image for the driver, which never imports the handler but hashes its mounted source."""
    first = call("modal.Image.debian_slim", python_version=quote(job.image.python))
    return Chain(first, (_runtime_packages(job), _local_source(job)))


def base(image: Image) -> tuple[Group, list[Group]]:
    """The call that starts the chain, and `.entrypoint(…)` if the spec resets it."""
    if image.base == "debian_slim":
        return call("modal.Image.debian_slim", python_version=quote(image.python)), []
    methods = {"registry": "from_registry", "ecr": "from_aws_ecr", "gcp": "from_gcp_artifact_registry"}
    methods |= {"name": "from_name", "dockerfile": "from_dockerfile"}
    given = dict(image.base) if isinstance(image.base, dict) else {}
    kind = next((name for name in methods if name in given), None)
    if kind is None:
        raise UsageError("`image.base` names none of `debian_slim`, " + ", ".join(f"`{name}`" for name in methods))
    what = given.pop(kind)
    if isinstance(what, dict):
        given |= what
        what = given.pop("path")
    entrypoint = given.pop("entrypoint", None)
    if kind == "dockerfile":
        given.setdefault("context_dir", ".")  # Modal's default is the folder in which the command runs
    source = _path(what) if kind == "dockerfile" else quote(what)
    first = call(f"modal.Image.{methods[kind]}", source, **_keywords(given))
    return first, [] if entrypoint is None else [call(".entrypoint", literal(entrypoint))]


def build_steps(image: Image) -> Iterator[Group]:
    """The layers that have keys of their own, in the order of the keys."""
    if image.apt:
        yield call(".apt_install", *map(quote, image.apt))
    for entry in image.pip:
        yield call(".uv_pip_install", *map(quote, entry.get("packages", ())), **_keywords(_without(entry, "packages")))
    if image.requirements and "uv_sync" in image.requirements:
        rest = _without(image.requirements, "uv_sync", "sha256")
        yield call(".uv_sync", call("str", _path(image.requirements["uv_sync"])), **_keywords(rest))
    elif image.requirements:
        rest = _without(image.requirements, "path", "sha256")
        yield call(".uv_pip_install", **_keywords({"requirements": [image.requirements["path"]], **rest}))
    for entry in image.run:
        commands = [entry["command"]] if isinstance(entry["command"], str) else entry["command"]
        yield call(".run_commands", *map(quote, commands), **_keywords(_without(entry, "command")))
    if image.env:
        yield call(".env", literal(image.env))
    if image.workdir:
        yield call(".workdir", quote(image.workdir))


def layer(entry: Mapping[str, Any]) -> Group:
    """One item of `image.layers`: `{method: [args]}`, `{method: {keyword: value}}` or `{method: {args, kwargs}}`."""
    method, given = next(iter(entry.items()))
    if method not in LAYER_METHODS:
        hint = "use `image.pipe` for anything else; known are " + ", ".join(sorted(LAYER_METHODS))
        raise UsageError(f"`image.layers`: `{method}` is not an Image method that a spec can name", hint=hint)
    args, kwargs = _arguments(given)
    paths = len(LAYER_METHODS[method])
    positional = [_local(method, item) if at < paths else literal(item) for at, item in enumerate(args)]
    return call(f".{method}", *positional, **_keywords(kwargs, method))


def secret(ref: SecretRef) -> Node:
    """`modal.Secret.from_name(…)`: by name, values are never in an app."""
    keys: dict[str, Node] = {"required_keys": literal(list(ref.required_keys))} if ref.required_keys else {}
    return call("modal.Secret.from_name", quote(ref.name), **keys)


def volume(ref: VolumeRef) -> Node:
    """`modal.Volume.from_name(…)`, or a mounted bucket."""
    kwargs: dict[str, Node] = {}
    if ref.bucket is not None:
        bucket, _, prefix = ref.bucket.removeprefix("s3://").partition("/")
        if prefix:
            kwargs["key_prefix"] = quote(prefix if prefix.endswith("/") else prefix + "/")
        if ref.credentials:
            kwargs["secret"] = secret(SecretRef(name=ref.credentials))
        if ref.read_only:
            kwargs["read_only"] = "True"
        return call("modal.CloudBucketMount", quote(bucket), **kwargs)
    if ref.create:
        kwargs["create_if_missing"] = "True"
    if ref.version is not None:
        kwargs["version"] = literal(ref.version)
    made = call("modal.Volume.from_name", quote(ref.name or ""), **kwargs)
    return Group(made.head, made.items, ").read_only()") if ref.read_only else made


def spec_folder(relative: str) -> str:
    """The spec's folder, from the app's own place: an app holds no path of a machine."""
    below = Under("Path(__file__).resolve().parent", relative)
    line = f"({flat(below)}).resolve()"
    return line if len("SPEC_DIR = " + line) <= WIDTH else f"(\n    {fit(below, indent=4, used=4)}\n).resolve()"


def _resources(compute: Compute) -> Iterator[tuple[str, Any]]:
    yield "gpu", _one_or_list(compute.gpu)
    yield "cpu", _one_or_pair(compute.cpu)
    yield "memory", _one_or_pair(compute.memory_mib)
    yield "ephemeral_disk", compute.ephemeral_disk_mib
    yield "region", _one_or_list(compute.region)
    yield "cloud", compute.cloud
    yield "timeout", compute.timeout_s
    yield "startup_timeout", compute.startup_timeout_s
    yield "retries", 0
    yield "min_containers", compute.min_containers or None
    yield "max_containers", compute.max_containers
    yield "buffer_containers", compute.buffer_containers or None
    yield "scaledown_window", compute.scaledown_window_s


def _extra(name: str, value: Any) -> Node:
    if name == "proxy" and isinstance(value, str):
        return call("modal.Proxy.from_name", quote(value))
    return literal(value)


def _secrets(job: Job) -> list[SecretRef]:
    keys: dict[str, set[str]] = {}
    for ref in job.secrets:
        keys.setdefault(ref.name, set()).update(ref.required_keys)
    for side in (job.source.credentials, job.sink.credentials):
        if side.secret:
            named = (side.access_key_id, side.secret_access_key, side.session_token)
            keys.setdefault(side.secret, set()).update(filter(None, named))
    return [SecretRef(name=name, required_keys=tuple(sorted(required))) for name, required in keys.items()]


def _data_volume(job: Job, name: str) -> Node:
    given = next((ref for ref in job.volumes.values() if ref.name == name), None)
    return volume(given or VolumeRef(name=name, version=2))


def _runtime_packages(job: Job) -> Group:
    on_s3 = any(uri.startswith("s3://") for uri in (*job.source.uris, job.sink.uri))
    packages = {**RUNTIME_PACKAGES, **(S3_PACKAGES if on_s3 else {})}
    return call(".uv_pip_install", *(quote(f"{name}=={packages[name]}") for name in sorted(packages)))


def _local_source(job: Job) -> Group:
    return call(".add_local_python_source", quote("modalbatch"), *map(quote, job.modules))


def _mount(entry: Mapping[str, Any]) -> Group:
    # `resolve` has seen the file system and writes folders with a slash at the end.
    method = ".add_local_dir" if entry["local"].endswith("/") else ".add_local_file"
    return call(method, _path(entry["local"].rstrip("/")), quote(entry["remote"]))


def _is_mounted(entry: Mapping[str, Any]) -> bool:
    method, given = next(iter(entry.items()))
    return method.startswith("add_local_") and not _arguments(given)[1].get("copy")


def _arguments(given: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(given, Mapping) and given and set(given) <= {"args", "kwargs"}:
        return given.get("args", ()), given.get("kwargs", {})
    if isinstance(given, Mapping):
        return (), given
    return (given, {}) if isinstance(given, (list, tuple)) else ((given,), {})


def _keywords(given: Mapping[str, Any], method: str = "") -> dict[str, Node]:
    """Keywords in order, with names of secrets and volumes and local paths as the objects that Modal wants."""
    out: dict[str, Node] = {}
    for name in sorted(given):
        value = given[name]
        if name in ("secret", "registry_secret") and isinstance(value, str):
            out[name] = secret(SecretRef(name=value))
        elif name == "secrets":
            out[name] = Group("[", tuple(("", secret(_secret_ref(item))) for item in value), "]")
        elif name == "volumes":
            out[name] = nodes({path: volume(_volume_ref(value[path])) for path in sorted(value)})
        elif name == "requirements":
            out[name] = Group("[", tuple(("", call("str", _path(item))) for item in value), "]")
        elif name in _PATH_KEYWORDS and isinstance(value, str):
            out[name] = _local(method, value)
        else:
            out[_keyword(name)] = literal(value)
    return out


def _secret_ref(value: str | Mapping[str, Any]) -> SecretRef:
    return SecretRef(name=value) if isinstance(value, str) else load(SecretRef, dict(value))


def _volume_ref(value: str | Mapping[str, Any]) -> VolumeRef:
    return VolumeRef(name=value) if isinstance(value, str) else load(VolumeRef, dict(value))


def _keyword(name: str, refused: set[str] | frozenset[str] = frozenset()) -> str:
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or name in refused:
        raise UsageError(f"`{name}` cannot be given as a keyword of Modal here")
    return name


def _local(method: str, value: str) -> Node:
    # The installers' parameters are strings; those that mount files take any path.
    return _path(value) if method.startswith("add_local_") or not method else call("str", _path(value))


def _path(relative: str) -> Node:
    return Under("SPEC_DIR", relative) if relative.strip("./") else "SPEC_DIR"


def _one_or_pair(values: tuple[Any, ...]) -> Any:
    return (values[0] if len(values) == 1 else values) if values else None


def _one_or_list(values: tuple[Any, ...]) -> Any:
    return (values[0] if len(values) == 1 else list(values)) if values else None


def _same(names: Mapping[str, Node], *wanted: str) -> dict[str, Node]:
    return {name: name for name in wanted if name in names}


def _without(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in names}
