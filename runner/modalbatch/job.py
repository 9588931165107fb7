"""The Job: what a spec describes, fully decided. Runs on: both.

Owns the frozen dataclasses and their JSON form (defaults left out). Refuses nothing: `spec` has
checked everything before a Job exists. Units: bytes and MiB as int, seconds as float, paths relative to the spec.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the container image holds, in the order of the fields."""

    #: `debian_slim`, or {"registry": …}, {"dockerfile": …}, {"name": …}, {"ecr": …}, {"gcp": …} with their keywords.
    base: str | Json = "debian_slim"
    #: Minor version of Python in the image, never the caller's.
    python: str = "3.12"
    apt: tuple[str, ...] = ()
    #: Calls of `uv_pip_install`: {"packages": [...], "index_url": …, …}.
    pip: tuple[Json, ...] = ()
    #: {"path": spec-relative, "sha256": of the content}, or {"uv_sync": folder, "sha256": …}.
    requirements: Json | None = None
    #: {"command": …, "secrets": […], "gpu": …, "volumes": {…}}.
    run: tuple[Json, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    workdir: str | None = None
    #: {"local": spec-relative path (a folder's ends with `/`), "remote": absolute path, "sha256": of names and bytes}.
    add_local: tuple[Json, ...] = ()
    #: Extra local top-level modules to mount; the handler's own is always there.
    source: tuple[str, ...] = ()
    #: One Image method each: {"apt_install": ["git"]} or {"run_commands": {"args": […], "kwargs": {…}}}.
    layers: tuple[Json, ...] = ()
    #: `module:function`, Image → Image.
    pipe: str | None = None
    #: sha256 of a Dockerfile's content, when base is a Dockerfile.
    base_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Modal's own keywords of `app.cls`, in Modal's units."""

    gpu: tuple[str, ...] = ()
    #: Cores: (request,) or (request, limit).
    cpu: tuple[float, ...] = ()
    #: MiB: (request,) or (request, limit).
    memory_mib: tuple[int, ...] = ()
    ephemeral_disk_mib: int | None = None
    region: tuple[str, ...] = ()
    cloud: str | None = None
    #: One attempt of one split, 1 to 86400.
    timeout_s: int = 600
    startup_timeout_s: int | None = None
    max_containers: int = 100
    min_containers: int = 0
    buffer_containers: int = 0
    scaledown_window_s: int = 60
    #: Any other keyword of `app.cls`, checked against its signature.
    modal: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a handler call, and a split, is tried again. Delays in seconds."""

    max_retries: int = 3
    initial_delay_s: float = 1.0
    backoff_coefficient: float = 2.0
    max_delay_s: float = 60.0

    def delay_s(self, n_failed: int) -> float:
        """Seconds to wait after the n-th failure, n from 1."""
        return min(self.max_delay_s, self.initial_delay_s * self.backoff_coefficient ** max(0, n_failed - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """A Modal secret by name; its values are never here."""

    name: str
    required_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRef:
    """A named Modal Volume, or a bucket mounted read-only or read-write."""

    name: str | None = None
    version: int | None = None
    read_only: bool = False
    create: bool = True
    #: `s3://bucket/prefix/`, for a CloudBucketMount.
    bucket: str | None = None
    #: Name of the secret with the bucket's credentials.
    credentials: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """The user's function or class."""

    #: `module:name`, relative to the spec's folder.
    call: str
    #: To a class's constructor, else keywords of each call.
    args: Json = field(default_factory=dict)
    #: None: one record a call. Else lists of at most this many.
    batch_size: int | None = None
    #: Calls at a time in one slot.
    concurrency: int = 1
    #: Child processes a container.
    slots: int = 1
    #: Seconds for one call; None: the split's timeout alone.
    timeout_s: float | None = None
    #: Input fields copied to each output record.
    keep: tuple[str, ...] = ()
    #: If given, stands for code and image in the fingerprint.
    version: str | None = None

    @property
    def module(self) -> str:
        """The dotted module of `call`."""
        return self.call.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The cutting rule: at most one of the two is set; neither means `auto`."""

    bytes: int | None = None
    files: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Where one side's credentials come from; empty means the own chain of the store's client."""

    #: Modal secret that holds the variables named below.
    secret: str | None = None
    # of S3
    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    role_arn: str | None = None
    profile: str | None = None
    # of Azure
    connection_string: str | None = None
    account_key: str | None = None
    sas_token: str | None = None
    # of Google Cloud
    service_account_json: str | None = None
    # of all
    anonymous: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables that hold them."""
        named = (
            self.access_key_id, self.secret_access_key, self.session_token,
            self.connection_string, self.account_key, self.sas_token, self.service_account_json,
        )  # fmt: skip
        return tuple(name for name in named if name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where records come from. URIs are logical: local paths relative to the spec's folder."""

    uris: tuple[str, ...]
    format: str = "jsonl"
    #: `None`: by suffix of each file; else gz, zst or none.
    compression: str | None = None
    split: Split = Split()
    endpoint_url: str | None = None
    credentials: Credentials = Credentials()
    #: `keep` or `drop` output whose input is gone.
    on_removed: str = "keep"
    allow_empty: bool = False
    #: A longer record becomes a dead letter without being read as one.
    max_record_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """Where results go. The URI is logical and ends with a slash."""

    uri: str
    format: str = "jsonl"
    #: `none`, `gz` or `zst`.
    compression: str = "none"
    endpoint_url: str | None = None
    credentials: Credentials = Credentials()


@dataclass(frozen=True, slots=True, kw_only=True)
class OnError:
    """What a record that used up its attempts becomes."""

    #: `dead_letter`, `drop` or `fail`.
    record: str = "dead_letter"
    #: How many dead or dropped records a run accepts as success: a count …
    max_failed: int | None = None
    #: … or a share of all records, 0 to 1.
    max_failed_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job. `spec` decides every field; equal jobs compile to equal bytes."""

    name: str
    handler: Handler
    source: Source
    sink: Sink
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    environment: str | None = None
    image: Image = Image()
    compute: Compute = Compute()
    retries: Retries = Retries()
    #: Exception types, as `module.Name`, that are worth another try.
    retry_on: tuple[str, ...] = ()
    secrets: tuple[SecretRef, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    #: Mount path → volume.
    volumes: dict[str, VolumeRef] = field(default_factory=dict)
    on_error: OnError = OnError()
    #: `exactly_once` or `at_least_once`.
    delivery: str = "exactly_once"

    @property
    def modules(self) -> tuple[str, ...]:
        """Top-level local modules that the app mounts: the handler's, `image.source`, that of `image.pipe`; sorted.

        The driver hashes what is mounted: what a pipe does to the image decides data too.
        """
        pipe = [self.image.pipe.partition(":")[0].partition(".")[0]] if self.image.pipe else []
        return tuple(sorted({self.handler.module.partition(".")[0], *self.image.source, *pipe}))

    def to_json(self) -> Json:
        """Plain data without the fields that are at their default."""
        data: Json = dump(self)
        return data

    @classmethod
    def from_json(cls, data: Json) -> Job:
        """The job that `to_json` wrote."""
        return load(cls, data)


def dump(value: Any) -> Any:
    """Dataclasses as dicts without defaults, tuples as lists; order of the fields."""
    if is_dataclass(value) and not isinstance(value, type):
        out = {}
        for item in fields(value):
            got = getattr(value, item.name)
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            if got != default:
                out[item.name] = dump(got)
        return out
    if isinstance(value, Mapping):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(item) for item in value]
    return value


_NESTED: dict[tuple[str, str], Any] = {
    ("Job", "handler"): Handler, ("Job", "source"): Source, ("Job", "sink"): Sink, ("Job", "image"): Image,
    ("Job", "compute"): Compute, ("Job", "retries"): Retries, ("Job", "on_error"): OnError,
    ("Job", "secrets"): SecretRef, ("Job", "volumes"): VolumeRef, ("Source", "split"): Split,
    ("Source", "credentials"): Credentials, ("Sink", "credentials"): Credentials,
}  # fmt: skip


def load(cls: type[T], data: Json) -> T:
    """The dataclass that `dump` wrote."""
    kwargs: Json = {}
    for name, value in data.items():
        nested = _NESTED.get((cls.__name__, name))
        if nested and isinstance(value, list):
            kwargs[name] = tuple(load(nested, item) for item in value)
        elif nested and name == "volumes":
            kwargs[name] = {key: load(nested, item) for key, item in value.items()}
        elif nested:
            kwargs[name] = load(nested, value)
        else:
            kwargs[name] = tuple(value) if isinstance(value, list) else value
    return cls(**kwargs)


def data_volume(job: Job) -> str | None:
    """The Modal Volume of a job with local data: staged inputs and the mirror of a local sink; None without any.

    Modal allows 64 characters; the names of long jobs are cut and told apart by a hash.
    """
    if all("://" in uri for uri in (*job.source.uris, job.sink.uri)):
        return None
    name = f"modalbatch-{job.name}"
    return name if len(name) <= 64 else f"{name[:55]}-{hashlib.sha256(job.name.encode()).hexdigest()[:8]}"


def volume_paths(job: Job) -> dict[str, str]:
    """Modal Volume to mount path, for the volumes that hold the job's data: source, sink, `data_volume`.

    Worker, driver and inspect mount them at the same paths; a volume that the spec mounts stays where it is.
    """
    uris = (*job.source.uris, job.sink.uri)
    names = [uri.removeprefix("volume://").partition("/")[0] for uri in uris if uri.startswith("volume://")]
    given = {ref.name: path for path, ref in job.volumes.items()}
    paths: dict[str, str] = {}
    for name in sorted({*names, *filter(None, [data_volume(job)])}):
        path = given.get(name) or f"/mnt/{name}"
        while name not in given and path in job.volumes:
            path += "-data"
        paths[name] = path
    return paths
