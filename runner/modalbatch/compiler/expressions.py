"""What each hole of `app.py.j2` holds: a job's parts as calls of Modal's client. Runs on: laptop.

Owns which keyword of Modal a field of the job is. Refuses keywords that are not in `modal_table`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modalbatch.compiler.image import driver_image, is_plain, worker_image
from modalbatch.compiler.layout import WIDTH, Group, Node, Under, call, fit, flat, literal, mapping, quote
from modalbatch.compiler.objects import data_volumes, job_secrets, secret_list, volume_map
from modalbatch.errors import UsageError
from modalbatch.job import Compute, Job
from modalbatch.spec import modal_table

#: How long the driver and `inspect` may take: Modal's maximum, and what listing a large bucket needs.
DRIVE_TIMEOUT_S, INSPECT_TIMEOUT_S = 86400, 3600


def spec_folder(relative: str) -> str:
    """The spec's folder, from the app's own place: an app holds no path of a machine."""
    if relative == ".":
        return "Path(__file__).resolve().parent"
    below = Under("Path(__file__).resolve().parent", relative)
    line = f"({flat(below)}).resolve()"
    return line if len("SPEC_DIR = " + line) <= WIDTH else f"(\n    {fit(below, indent=4, used=4)}\n).resolve()"


def job_literal(job: Job) -> Node:
    """The job as `Job.from_json` reads it: its fields in their order, maps inside them by key."""
    return mapping(job.to_json())


def app_call(job: Job) -> Node:
    """`modal.App(…)`."""
    tags: dict[str, Node] = {"tags": literal(job.tags)} if job.tags else {}
    return call("modal.App", quote(job.name), **tags)


def shared(job: Job) -> dict[str, Node]:
    """The objects that more than one decorator may use, by their variable; only those that the job needs."""
    found: dict[str, Node] = {}
    if job.env:
        found["env"] = literal(job.env)
    if secrets := job_secrets(job):
        found["secrets"] = secret_list(secrets)
    data = data_volumes(job)
    rest = {path: ref for path, ref in job.volumes.items() if path not in data}
    if data:
        found["data_volumes"] = volume_map(data)
    if rest:
        merged: tuple[tuple[str, Node], ...] = (("**", "data_volumes"),) if data else ()
        found["volumes"] = Group("{", merged + volume_map(rest).items, "}")
    found["image"] = worker_image(job)
    if not is_plain(job.image):
        found["driver_image"] = driver_image(job)
    return found


def worker_call(job: Job, names: Mapping[str, Node]) -> Node:
    """`@app.cls(…)`: image, resources and limits of the workers."""
    given: dict[str, Node] = {"image": "image", **_same(names, "env", "secrets")}
    if "volumes" in names or "data_volumes" in names:
        given["volumes"] = "volumes" if "volumes" in names else "data_volumes"
    given |= {name: literal(value) for name, value in _resources(job.compute) if value is not None}
    for name in sorted(job.compute.modal):
        if name not in modal_table.CLS_KEYWORDS:
            raise UsageError(f"`modal`: `{name}` is not a keyword of `app.cls` that a spec can give")
        value = job.compute.modal[name]
        given[name] = call("modal.Proxy.from_name", quote(value)) if name == "proxy" else literal(value)
    return call("@app.cls", **given)


def concurrent_call(job: Job) -> str:
    """`@modal.concurrent(…)`: a split for each slot, and the next one at hand while a part is published."""
    slots = job.handler.slots
    return flat(call("@modal.concurrent", max_inputs=literal(slots + 1), target_inputs=literal(slots)))


def function_call(names: Mapping[str, Node], timeout_s: int) -> Node:
    """`@app.function(…)` of the driver and of `inspect`: the job's data and secrets, not its resources."""
    image = "driver_image" if "driver_image" in names else "image"
    given: dict[str, Node] = {"image": image, **_same(names, "env", "secrets")}
    if "data_volumes" in names:
        given["volumes"] = "data_volumes"
    return call("@app.function", **given, timeout=literal(timeout_s))


def _resources(compute: Compute) -> Iterator[tuple[str, Any]]:
    yield "gpu", _one_or(list, compute.gpu)
    yield "cpu", _one_or(tuple, compute.cpu)
    yield "memory", _one_or(tuple, compute.memory_mib)
    yield "ephemeral_disk", compute.ephemeral_disk_mib
    yield "region", _one_or(list, compute.region)
    yield "cloud", compute.cloud
    yield "timeout", compute.timeout_s
    yield "startup_timeout", compute.startup_timeout_s
    yield "retries", 0
    yield "min_containers", compute.min_containers or None
    yield "max_containers", compute.max_containers
    yield "buffer_containers", compute.buffer_containers or None
    yield "scaledown_window", compute.scaledown_window_s


def _one_or(several: type, values: tuple[Any, ...]) -> Any:
    return (values[0] if len(values) == 1 else several(values)) if values else None


def _same(names: Mapping[str, Node], *wanted: str) -> dict[str, Node]:
    return {name: name for name in wanted if name in names}
