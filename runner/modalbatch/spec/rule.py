"""Rules that a schema cannot say: one function per `x-check` of the schema. Runs on: laptop.

Owns what Modal would refuse later about single values: GPUs, mounts, layers, keywords. A rule sees one value, never
the file system, and yields what is wrong with it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from modalbatch import units
from modalbatch.gpu import GPU_ALIASES, GPUS, canonical_name
from modalbatch.spec import modal_table, secrecy
from modalbatch.spec.words import listed, meant


class Finding(NamedTuple):
    """Something wrong at a node or below it; `{key}` in the message stands for the node's dotted name."""

    message: str
    hint: str | None = None
    #: From the rule's node to the wrong one.
    below: tuple[str | int, ...] = ()
    #: Whether the key is wrong, not its value.
    at_key: bool = False


_JSON_TYPES: dict[str, type] = {"string": str, "boolean": bool, "object": dict}
_JSON_WORDS = {"string": "text", "boolean": "`true` or `false`", "object": "a map"}


def check_gpu(value: Any) -> Iterator[Finding]:
    """A GPU's name and count."""
    if not isinstance(value, str):
        return
    kind, colon, count = value.partition(":")
    canonical = canonical_name(kind)
    if canonical is None:
        hint = meant(kind, [*GPUS, *GPU_ALIASES])
        yield Finding(f"unknown GPU {secrecy.shown(kind)}", hint or f"one of {listed(GPUS)}")
        return
    most = GPUS[canonical]
    if colon and (not re.fullmatch(r"[0-9]{1,3}", count.strip()) or not 1 <= int(count) <= most):
        yield Finding(
            f"a container has 1 to {most} of `{canonical}`, not {secrecy.shown(count)}",
            f"write `{canonical}:{most}` at most",
        )


def check_request_limit(value: Any) -> Iterator[Finding]:
    """`[request, limit]` in this order."""
    if not isinstance(value, list) or len(value) != 2:
        return
    try:
        request, limit = (units.parse_bytes(item) / units.MIB if isinstance(item, str) else item for item in value)
        if limit < request:
            yield Finding("the limit of `{key}` is below its request", "write `[request, limit]`", (1,))
    except (TypeError, ValueError):
        return


def check_variables(value: Any) -> Iterator[Finding]:
    """Environment variables: no secrets, none of ours."""
    for name, item in value.items() if isinstance(value, dict) else ():
        if name.upper().startswith("MODALBATCH_"):
            yield Finding(f"the variable {secrecy.shown(name)} is modalbatch's own", "use another name", (name,), True)
        elif isinstance(item, str) and secrecy.is_secret_pair(name, item):
            hint = f"`modal secret create my-secret {secrecy.printable(name)}=…`, then `secrets: [my-secret]`"
            yield Finding(f"the variable {secrecy.shown(name)} looks like a secret written out", hint, (name,), True)


def check_requirement(value: Any) -> Iterator[Finding]:
    """A package, not an option of pip."""
    if isinstance(value, str) and (not value.strip() or value.lstrip().startswith("-")):
        hint = "options go into the long form: `{packages: […], index_url: …}`; files into `image.requirements`"
        yield Finding(f"{secrecy.shown(value)} is no package", hint)


def check_mount(value: Any) -> Iterator[Finding]:
    """A mount path that Modal accepts (`modal._utils.mount_utils`)."""
    if not isinstance(value, str):
        return
    if not value.startswith("/"):
        yield Finding(
            f"the mount path {secrecy.shown(value)} is not absolute", f"write `/{secrecy.printable(value)[:60]}`"
        )
    elif value in ("/", "/root", "/tmp"):  # noqa: S108
        yield Finding(f"nothing can be mounted at `{value}`", "mount below it, for example at `/data`")
    elif value != posixpath.normpath(value) or value.startswith("//"):
        normal = "/" + posixpath.normpath(value).lstrip("/")
        yield Finding(f"the mount path {secrecy.shown(value)} is not in its shortest form", f"write `{normal[:80]}`")


def check_volume(value: Any) -> Iterator[Finding]:
    """A volume or a bucket, with the keys of one of them."""
    if not isinstance(value, dict):
        return
    if ("name" in value) == ("bucket" in value):
        found = "both" if "name" in value else "neither"
        yield Finding("`{key}` needs either `name` or `bucket`, this has " + found, "`name` for a volume of Modal")
        return
    strangers = ("version", "create") if "bucket" in value else ("credentials",)
    for key in strangers:
        if key in value:
            kind = "a bucket" if "bucket" in value else "a volume"
            yield Finding(f"`{key}` does not apply to {kind}", "remove it", (key,), True)


def check_volumes(value: Any) -> Iterator[Finding]:
    """A volume is mounted once, and never inside another."""
    seen: dict[str, str] = {}
    for path, item in value.items() if isinstance(value, dict) else ():
        name = item.get("name") if isinstance(item, dict) else item
        if isinstance(name, str) and name in seen:
            message = f"the volume {secrecy.shown(name)} is already mounted at {secrecy.shown(seen[name])}"
            yield Finding(message, "Modal mounts a volume once", (path,))
        elif isinstance(name, str):
            seen[name] = path


#: Keys that name variables, each tuple one way to sign requests.
_VARIABLES = (
    ("access_key_id", "secret_access_key", "session_token"),
    ("connection_string",), ("account_key",), ("sas_token",), ("service_account_json",),
)  # fmt: skip


def check_credentials(value: Any) -> Iterator[Finding]:
    """One way to get credentials."""
    if isinstance(value, str) and value != "anonymous":
        yield Finding("`{key}` must be `anonymous` or a map, not text", "`{secret: NAME}` for a Modal secret")
    if not isinstance(value, dict):
        return
    ways = [key for key in ("secret", "role_arn", "profile", "anonymous") if value.get(key)]
    if len(ways) > 1:
        yield Finding("`{key}` has " + listed(ways, "and") + " at once", "keep one of them", (ways[1],), True)
    named = [key for kind in _VARIABLES for key in kind if key in value]
    kinds = [kind for kind in _VARIABLES if any(key in value for key in kind)]
    if named and "secret" not in value:
        yield Finding(
            f"`{named[0]}` names a variable of a secret, but there is no `secret`",
            "add `secret: NAME`",
            (named[0],),
            True,
        )
    elif len(kinds) > 1:
        other = next(key for key in kinds[1] if key in value)
        yield Finding(f"`{{key}}` has `{named[0]}` and `{other}` at once", "keep one of them", (other,), True)
    elif ("access_key_id" in value) != ("secret_access_key" in value):
        other = "secret_access_key" if "access_key_id" in value else "access_key_id"
        yield Finding(f"`{named[0]}` needs `{other}` too", f"add `{other}: NAME_OF_THE_VARIABLE`", (named[0],), True)


_BASES = ("registry", "dockerfile", "name", "ecr", "gcp")
_BASE_HINTS = {True: "keep one of them", False: "for example `registry: ubuntu:24.04`"}
_REGISTRY_KEYS = ("secret", "add_python", "entrypoint", "setup_dockerfile_commands")
_BASE_KEYS = {
    "registry": _REGISTRY_KEYS, "ecr": _REGISTRY_KEYS, "gcp": _REGISTRY_KEYS,
    "dockerfile": ("secret", "add_python", "entrypoint"), "name": (),
}  # fmt: skip


def check_base(value: Any) -> Iterator[Finding]:
    """`debian_slim`, or exactly one kind of image with its own keys."""
    if isinstance(value, str) and value != "debian_slim":
        hint = (
            meant(value, ["debian_slim"])
            or f'`{{registry: "{secrecy.printable(value)[:60]}"}}` for an image of a registry'
        )
        yield Finding(f"`{{key}}` must be `debian_slim` or a map, not {secrecy.shown(value)}", hint)
    if not isinstance(value, dict):
        return
    kinds = [key for key in _BASES if key in value]
    if len(kinds) != 1:
        found = listed(kinds, "and") if kinds else "none"
        yield Finding(
            "`{key}` needs exactly one of " + listed(_BASES) + ", this has " + found, _BASE_HINTS[bool(kinds)]
        )
        return
    for key in value:
        if key in _REGISTRY_KEYS and key not in _BASE_KEYS[kinds[0]]:
            yield Finding(f"`{key}` does not apply to `{kinds[0]}`", "remove it", (key,), True)
    if kinds[0] in ("ecr", "gcp") and "secret" not in value:
        yield Finding(
            f"`{kinds[0]}` needs `secret`", "add `secret: NAME` with the registry's credentials", (kinds[0],), True
        )


def check_layer(value: Any) -> Iterator[Finding]:
    """One Image method with its own parameters."""
    if not isinstance(value, dict):
        return
    if len(value) != 1:
        yield Finding(f"a layer is one method, this map has {len(value)}", "begin each layer with `- `")
        return
    method, given = next(iter(value.items()))
    if method in modal_table.IMAGE_REFUSED:
        yield Finding(f"`{method}` cannot be a layer", modal_table.IMAGE_REFUSED[method], (method,), True)
        return
    if method not in modal_table.IMAGE_METHODS:
        hint = meant(method, modal_table.IMAGE_METHODS) or f"one of {listed(modal_table.IMAGE_METHODS)}"
        yield Finding(f"`modal.Image` has no method {secrecy.shown(method)}", hint, (method,), True)
        return
    positional, keywords = modal_table.IMAGE_METHODS[method]
    if isinstance(given, dict) and method != "env":
        known = [*(name.lstrip("*") for name in positional), *keywords]
        for key in given:
            if key not in known:
                hint = meant(key, known) or f"it takes {listed(known, 'and')}"
                yield Finding(f"`Image.{method}` has no parameter {secrecy.shown(key)}", hint, (method, key), True)
    elif isinstance(given, list) and not positional[0].startswith("*") and len(given) > len(positional):
        wanted = listed(positional, "and")
        yield Finding(f"`Image.{method}` takes {wanted}, this has {len(given)} values", "remove some", (method,))
    elif not isinstance(given, (str, list, dict)):
        yield Finding(
            f"`{method}` needs a list, text or map of parameters", f"for example `{method}: [git]`", (method,)
        )


def check_modal(value: Any) -> Iterator[Finding]:
    """Keywords of `app.cls`."""
    for key, item in value.items() if isinstance(value, dict) else ():
        if key in modal_table.CLS_REFUSED:
            yield Finding(f"`{key}` does not go under `modal`", modal_table.CLS_REFUSED[key], (key,), True)
        elif key not in modal_table.CLS_KEYWORDS:
            known = [*modal_table.CLS_KEYWORDS, *modal_table.CLS_REFUSED]
            hint = meant(key, known) or f"one of {listed(modal_table.CLS_KEYWORDS)}"
            yield Finding(f"`app.cls` of modal has no keyword {secrecy.shown(key)}", hint, (key,), True)
        else:
            kind = modal_table.CLS_KEYWORDS[key]
            if not isinstance(item, _JSON_TYPES[kind]):
                message = f"`modal.{key}` must be {_JSON_WORDS[kind]}, not {secrecy.shown(item)}"
                yield Finding(message, None, (key,))


#: `x-check` → rule.
RULES: dict[str, Callable[[Any], Iterator[Finding]]] = {
    "base": check_base,
    "credentials": check_credentials,
    "gpu": check_gpu,
    "layer": check_layer,
    "modal": check_modal,
    "mount": check_mount,
    "request-limit": check_request_limit,
    "requirement": check_requirement,
    "variables": check_variables,
    "volume": check_volume,
    "volumes": check_volumes,
}
