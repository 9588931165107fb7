"""Spec to Job: every default filled in, every quantity a number, every local file hashed. Runs on: laptop.

Owns the order of the checks and the reading of every key. Refuses nothing quietly: all mistakes of a spec are raised
at once. Reads files beside the spec; imports nothing of the user's and asks no network.
"""

from __future__ import annotations

import math
from typing import Any

from modalbatch import units
from modalbatch.compiler import code, cross, files, place
from modalbatch.gpu import canonical_request
from modalbatch.job import (
    Compute,
    Credentials,
    Handler,
    Image,
    Job,
    OnError,
    Retries,
    SecretRef,
    Sink,
    Source,
    Split,
    VolumeRef,
)
from modalbatch.spec.check import check_tree
from modalbatch.spec.document import Spec
from modalbatch.spec.modal_table import IMAGE_METHODS
from modalbatch.spec.problem import Problems

Json = dict[str, Any]


def resolve(spec: Spec) -> Job:
    """The job that a spec describes.

    Raises:
        SpecErrors: everything that is wrong with the spec, in the order of its lines.
    """
    problems = Problems(spec)
    check_tree(problems)
    tree = dict(spec.tree)
    sources, sink, image = None, None, Image()
    handler = _long(tree["handler"], "call") if "handler" in tree and problems.is_clean(("handler",)) else {}
    if "source" in tree and problems.is_clean(("source",)):
        sources, _ = place.check_source(problems, tree["source"])
    if "sink" in tree and problems.is_clean(("sink",)):
        sink = place.check_sink(problems, tree["sink"])
    if sources and sink:
        place.check_overlap(problems, sources, sink)
    if "call" in handler:
        trail = ("handler", "call") if isinstance(tree["handler"], dict) else ("handler",)
        code.check_handler(problems, trail, handler["call"], handler)
    if problems.is_clean(("image",)):
        image = _image(problems, tree.get("image", {}), handler.get("call"))
    elif handler.get("call") and problems.is_clean(("image", "source")):
        code.check_modules(problems, handler["call"].partition(":")[0], _modules(tree.get("image", {})))
    # Keys with mistakes are left out, so that contradictions among the others are found in the same pass.
    clean = {"name": "", **{key: value for key, value in tree.items() if problems.is_clean((key,))}}
    uris = tuple(item.uri for item in sources or ())
    job = _job(clean, handler or {"call": ""}, uris, sink.uri if sink else "", image)
    cross.check_job(problems, job)
    problems.stop()
    return job


def _job(tree: Json, handler: Json, uris: tuple[str, ...], sink_uri: str, image: Image) -> Job:
    return Job(
        name=tree["name"],
        description=tree.get("description", ""),
        tags=tree.get("tags", {}),
        environment=tree.get("environment"),
        image=image,
        compute=_compute(tree),
        retries=_retries(tree.get("retries", {})),
        retry_on=_several(tree.get("retry_on", ())),
        secrets=tuple(_secret(item) for item in _several(tree.get("secrets", ()))),
        env=tree.get("env", {}),
        volumes={path: _volume(item) for path, item in tree.get("volumes", {}).items()},
        handler=_handler(handler),
        source=_source(_long(tree.get("source"), "uri"), uris),
        sink=_sink(_long(tree.get("sink"), "uri"), sink_uri),
        on_error=_on_error(_long(tree.get("on_error", {}), "record")),
        delivery=tree.get("delivery", "exactly_once"),
    )


def _compute(tree: Json) -> Compute:
    gpu = tuple(canonical_request(item) for item in _several(tree.get("gpu", ())))
    startup = tree.get("startup_timeout")
    disk = tree.get("ephemeral_disk")
    return Compute(
        gpu=gpu,
        cpu=_several(tree.get("cpu", ())),
        memory_mib=tuple(_mib(item) for item in _several(tree.get("memory", ()))),
        ephemeral_disk_mib=None if disk is None else _mib(disk),
        region=_several(tree.get("region", ())),
        cloud=tree.get("cloud"),
        timeout_s=_whole_seconds(tree.get("timeout", 600)),
        startup_timeout_s=None if startup is None else _whole_seconds(startup),
        max_containers=tree.get("max_containers", 10 if gpu else 100),
        min_containers=tree.get("min_containers", 0),
        buffer_containers=tree.get("buffer_containers", 0),
        scaledown_window_s=_whole_seconds(tree.get("scaledown_window", 60)),
        modal=tree.get("modal", {}),
    )


def _retries(given: Any) -> Retries:
    long = _long(given, "max_retries")
    return Retries(
        max_retries=long.get("max_retries", 3),
        initial_delay_s=_seconds(long.get("initial_delay", 1)),
        backoff_coefficient=float(long.get("backoff_coefficient", 2)),
        max_delay_s=_seconds(long.get("max_delay", 60)),
    )


def _secret(given: Any) -> SecretRef:
    long = _long(given, "name")
    return SecretRef(name=long["name"], required_keys=tuple(long.get("required_keys", ())))


def _volume(given: Any) -> VolumeRef:
    long = _long(given, "name")
    bucket = long.get("bucket")
    return VolumeRef(
        name=long.get("name"),
        version=long.get("version"),
        read_only=long.get("read_only", False),
        create=long.get("create", True),
        bucket=None if bucket is None else f"{bucket.rstrip('/')}/",
        credentials=long.get("credentials"),
    )


def _handler(long: Json) -> Handler:
    limit = long.get("timeout")
    return Handler(
        call=long["call"],
        args=long.get("args", {}),
        batch_size=long.get("batch_size"),
        concurrency=long.get("concurrency", 1),
        slots=long.get("slots", 1),
        timeout_s=None if limit is None else _seconds(limit),
        keep=tuple(long.get("keep", ())),
        version=long.get("version"),
    )


def _source(long: Json, uris: tuple[str, ...]) -> Source:
    return Source(
        uris=uris,
        format=long.get("format", "jsonl"),
        compression=long.get("compression"),
        split=_split(long.get("split", "auto")),
        endpoint_url=long.get("endpoint_url"),
        credentials=_credentials(long.get("credentials", {})),
        on_removed=long.get("on_removed", "keep"),
        allow_empty=long.get("allow_empty", False),
        max_record_bytes=_bytes(long.get("max_record", "16MiB")),
    )


def _split(given: Any) -> Split:
    if isinstance(given, dict):
        return Split(files=given["files"])
    if given == "auto":
        return Split()
    return Split(bytes=_bytes(given))


def _bytes(given: int | str) -> int:
    return given if isinstance(given, int) else units.parse_bytes(given)


def _sink(long: Json, uri: str) -> Sink:
    return Sink(
        uri=uri,
        format=long.get("format", "jsonl"),
        compression=long.get("compression", "none"),
        endpoint_url=long.get("endpoint_url"),
        credentials=_credentials(long.get("credentials", {})),
    )


def _credentials(given: Any) -> Credentials:
    if given == "anonymous":
        return Credentials(anonymous=True)
    return Credentials(
        secret=given.get("secret"),
        access_key_id=given.get("access_key_id"),
        secret_access_key=given.get("secret_access_key"),
        session_token=given.get("session_token"),
        role_arn=given.get("role_arn"),
        profile=given.get("profile"),
        connection_string=given.get("connection_string"),
        account_key=given.get("account_key"),
        sas_token=given.get("sas_token"),
        service_account_json=given.get("service_account_json"),
        anonymous=given.get("anonymous", False),
    )


def _on_error(long: Json) -> OnError:
    limit = long.get("max_failed")
    share = float(limit.rstrip("% ")) / 100 if isinstance(limit, str) else None
    count = limit if isinstance(limit, int) else None
    return OnError(record=long.get("record", "dead_letter"), max_failed=count, max_failed_share=share)


def _image(problems: Problems, given: Json, call: str | None) -> Image:
    code.check_modules(problems, call.partition(":")[0] if call else None, _modules(given))
    if "pipe" in given:
        code.check_pipe(problems, given["pipe"])
    base, base_sha256 = files.base(problems, given.get("base", "debian_slim"))
    return Image(
        base=base,
        python=given.get("python", "3.12"),
        apt=tuple(given.get("apt", ())),
        pip=_pip(given.get("pip", [])),
        requirements=files.requirements(problems, given.get("requirements")),
        run=tuple(_command(item) for item in _several(given.get("run", ()))),
        env=given.get("env", {}),
        workdir=given.get("workdir"),
        add_local=files.add_local(problems, given.get("add_local", {})),
        source=_several(given.get("source", ())),
        layers=tuple(_layer(item) for item in given.get("layers", ())),
        pipe=given.get("pipe"),
        base_sha256=base_sha256,
    )


def _modules(image: Any) -> list[tuple[tuple[str | int, ...], str]]:
    given = image.get("source", []) if isinstance(image, dict) else []
    if isinstance(given, str):
        return [(("image", "source"), given)]
    return [(("image", "source", i), name) for i, name in enumerate(given)]


def _pip(items: list[Any]) -> tuple[Json, ...]:
    """Neighbouring plain packages are one call of `uv_pip_install`."""
    calls: list[Json] = []
    is_plain = False
    for item in items:
        if isinstance(item, str) and is_plain:
            calls[-1]["packages"].append(item)
        elif isinstance(item, str):
            calls.append({"packages": [item]})
        else:
            calls.append(_with_lists(item))
        is_plain = isinstance(item, str)
    return tuple(calls)


def _command(item: Any) -> Json:
    return _with_lists(_long(item, "command"))


def _with_lists(item: Json) -> Json:
    return {key: list(_several(value)) if key == "secrets" else value for key, value in item.items()}


def _layer(item: Json) -> Json:
    """One Image method: positional arguments as a list, else `{args, kwargs}`."""
    method, given = next(iter(item.items()))
    if isinstance(given, str):
        return {method: [given]}
    if isinstance(given, list) or method == "env":
        return {method: given}
    many = IMAGE_METHODS[method][0][0]
    kwargs = dict(given)
    args = list(_several(kwargs.pop(many[1:], ()))) if many.startswith("*") else []
    return {method: {"args": args, "kwargs": kwargs}}


def _long(given: Any, key: str) -> Json:
    """The long form of a value that has a short one."""
    return dict(given) if isinstance(given, dict) else {key: given}


def _several(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)


def _mib(given: Any) -> int:
    return math.ceil(units.parse_bytes(given) / units.MIB) if isinstance(given, str) else int(given)


def _seconds(given: Any) -> float:
    return units.parse_seconds(given) if isinstance(given, str) else float(given)


def _whole_seconds(given: Any) -> int:
    return math.ceil(_seconds(given))
