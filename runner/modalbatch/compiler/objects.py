"""Secrets and volumes by name, as calls of Modal's client. Runs on: laptop.

Owns which of them a job needs. Refuses values of secrets: there is no way to say one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modalbatch.compiler.layout import Group, Node, call, literal, nodes, quote
from modalbatch.job import Job, SecretRef, VolumeRef, load, volume_paths


def secret(ref: str | Mapping[str, Any] | SecretRef) -> Group:
    """`modal.Secret.from_name(…)`."""
    found = _reference(SecretRef, ref)
    keys: dict[str, Node] = {"required_keys": literal(list(found.required_keys))} if found.required_keys else {}
    return call("modal.Secret.from_name", quote(found.name), **keys)


def secret_list(refs: Any) -> Group:
    """A list of secrets; one name stands for itself."""
    return Group("[", tuple(("", secret(ref)) for ref in ([refs] if isinstance(refs, str) else refs)), "]")


def volume(ref: str | Mapping[str, Any] | VolumeRef) -> Group:
    """`modal.Volume.from_name(…)`, or a mounted bucket."""
    found = _reference(VolumeRef, ref)
    if found.bucket is not None:
        return _bucket(found)
    kwargs: dict[str, Node] = {}
    if found.create:
        kwargs["create_if_missing"] = "True"
    if found.version is not None:
        kwargs["version"] = literal(found.version)
    made = call("modal.Volume.from_name", quote(found.name or ""), **kwargs)
    return Group(made.head, made.items, ").read_only()") if found.read_only else made


def volume_map(refs: Mapping[str, Any]) -> Group:
    """Mount path → volume, by path."""
    return nodes({path: volume(refs[path]) for path in sorted(refs)})


def job_secrets(job: Job) -> list[SecretRef]:
    """Every secret once, with all keys that someone needs: those of the job in its order, then source's and sink's."""
    keys: dict[str, set[str]] = {}
    for ref in job.secrets:
        keys.setdefault(ref.name, set()).update(ref.required_keys)
    for side in (job.source.credentials, job.sink.credentials):
        if side.secret:
            keys.setdefault(side.secret, set()).update(side.variables)
    return [SecretRef(name=name, required_keys=tuple(sorted(required))) for name, required in keys.items()]


def data_volumes(job: Job) -> dict[str, VolumeRef]:
    """Mount path → volume, of those that hold the job's data: driver and `inspect` mount them as well."""
    given = {ref.name: ref for ref in job.volumes.values()}
    return {
        path: given.get(name) or VolumeRef(name=name, version=2) for name, path in sorted(volume_paths(job).items())
    }


def _bucket(ref: VolumeRef) -> Group:
    kwargs: dict[str, Node] = {}
    bucket, _, prefix = (ref.bucket or "").removeprefix("s3://").partition("/")
    if prefix:
        kwargs["key_prefix"] = quote(prefix.rstrip("/") + "/")
    if ref.credentials:
        kwargs["secret"] = secret(ref.credentials)
    if ref.read_only:
        kwargs["read_only"] = "True"
    return call("modal.CloudBucketMount", quote(bucket), **kwargs)


def _reference(kind: Any, ref: Any) -> Any:
    if isinstance(ref, str):
        return kind(name=ref)
    return load(kind, dict(ref)) if isinstance(ref, Mapping) else ref
