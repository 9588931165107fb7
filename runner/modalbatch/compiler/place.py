"""Where records come from and go to, checked. Runs on: laptop.

Owns the URIs of source and sink: schemes, formats by suffix, local files that must exist, and that a job never reads
what it writes. Touches the local file system only; stores are asked by `plan`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, NamedTuple

from modalbatch.compiler import disk
from modalbatch.errors import ModalbatchError
from modalbatch.formats.compression import SUFFIXES
from modalbatch.sources.glob import Pattern, has_wildcard, split_pattern
from modalbatch.spec import secrecy
from modalbatch.spec.mark import Trail
from modalbatch.spec.problem import Problems
from modalbatch.spec.words import listed

#: Suffix → format; a compression's suffix may follow.
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl"}
#: Suffixes of formats that people will try.
_OTHER_FORMATS = {
    ".csv": "CSV", ".tsv": "CSV", ".parquet": "Parquet", ".txt": "text", ".json": "JSON", ".arrow": "Arrow",
}  # fmt: skip
_VOLUME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}):")
_PARTS = tuple(f"part-0{suffix}{ending}" for suffix in FORMATS for ending in SUFFIXES.values())


class _ObjectStore(NamedTuple):
    """What a URI of one kind of object store looks like, and what belongs to it."""

    name: str
    #: What holds the objects, what they are called by, and the form of the first.
    container: str
    key: str
    pattern: re.Pattern[str]
    letters: str
    #: Of `credentials`, that only it knows.
    keys: tuple[str, ...]


#: Scheme → its store.
OBJECT_STORES = {
    "s3": _ObjectStore(
        "S3", "bucket", "key", re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
        "3 to 63 lower-case letters, digits, dashes or dots",
        ("access_key_id", "secret_access_key", "session_token", "role_arn", "profile"),
    ),
    "az": _ObjectStore(
        "Azure", "container", "name", re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*"),
        "3 to 63 lower-case letters, digits or single dashes; the account goes into `endpoint_url`",
        ("connection_string", "account_key", "sas_token"),
    ),
    "gs": _ObjectStore(
        "Google Cloud", "bucket", "name", re.compile(r"[a-z0-9][a-z0-9_.-]{1,220}[a-z0-9]"),
        "3 to 222 lower-case letters, digits, dashes, underscores or dots",
        ("service_account_json",),
    ),
}  # fmt: skip
#: Schemes of other tools for the same stores.
_OTHER_NAMES = {
    "s3a": "s3", "s3n": "s3", "gcs": "gs",
    "abfs": "az", "abfss": "az", "azure": "az", "wasb": "az", "wasbs": "az",
}  # fmt: skip


class Place(NamedTuple):
    """One URI of the spec, checked: its logical form and where it was written."""

    uri: str
    trail: Trail


def check_source(problems: Problems, given: Any) -> tuple[list[Place], str | None]:
    """The source's places, and its format where it is known."""
    long = given if isinstance(given, dict) else {"uri": given}
    base: Trail = ("source", "uri") if isinstance(given, dict) else ("source",)
    uris = long["uri"] if isinstance(long["uri"], list) else [long["uri"]]
    places = []
    for i, text in enumerate(uris):
        trail = (*base, i) if isinstance(long["uri"], list) else base
        uri = _source_uri(problems, trail, text)
        if uri is not None:
            places.append(Place(uri, trail))
            has_format = "format" in long or _check_format(problems, trail, uri)
            if has_format and "://" not in uri and not long.get("allow_empty"):
                _check_exists(problems, trail, uri)
    _check_keys(problems, "source", long, [place.uri for place in places])
    return places, long.get("format", "jsonl")


def check_sink(problems: Problems, given: Any) -> Place | None:
    """The sink's place, as a folder."""
    trail: Trail = ("sink", "uri") if isinstance(given, dict) else ("sink",)
    long = given if isinstance(given, dict) else {"uri": given}
    uri = _sink_uri(problems, trail, long["uri"])
    if uri is None:
        return None
    _check_keys(problems, "sink", long, [uri])
    return Place(uri, trail)


def check_overlap(problems: Problems, sources: list[Place], sink: Place) -> None:
    """The job does not read its own output, and its sink holds no input."""
    for source in sources:
        folder, rest = split_pattern(source.uri)
        pattern = Pattern(rest) if has_wildcard(source.uri) else None
        inside = sink.uri[len(folder) :] if sink.uri.startswith(folder) else None
        reads_parts = inside is not None and pattern and any(pattern.matches(inside + part) for part in _PARTS)
        line = problems.spec.where(source.trail).line
        if reads_parts:
            message = f"the source on line {line} would read what this sink writes"
        elif source.uri.startswith(sink.uri):
            message = f"the source on line {line} lies in this sink"
        else:
            continue
        problems.add(sink.trail, message, "use a folder of its own, for example `out/`")
        return


def _source_uri(problems: Problems, trail: Trail, text: str) -> str | None:
    if not _check_plain(problems, trail, text):
        return None
    scheme, path = _scheme(text)
    if scheme in OBJECT_STORES:
        return text if _check_object(problems, trail, text, scheme) else None
    if scheme:
        hints = {
            "file": f"write `{secrecy.printable(path.lstrip('/') and '/' + path.lstrip('/'))[:100]}`",
            "volume": "a Modal Volume can be a sink; mount one with `volumes` to read it in the handler",
        }
        message = f"sources of the scheme `{scheme}` are not supported by this version"
        hint = hints.get(scheme) or _other_name(scheme)
        problems.add(trail, message, hint or f"local paths, {_forms('key')} are")
        return None
    return _local(problems, trail, text)


def _sink_uri(problems: Problems, trail: Trail, text: str) -> str | None:
    if not _check_plain(problems, trail, text):
        return None
    if has_wildcard(text.rstrip("/")):
        problems.add(trail, f"a sink is a folder, {secrecy.shown(text)} is a pattern", "write a folder such as `out/`")
        return None
    scheme, path = _scheme(text)
    if scheme in OBJECT_STORES:
        return f"{text.rstrip('/')}/" if _check_object(problems, trail, text, scheme) else None
    if scheme == "volume":
        name, _, inside = path.removeprefix("//").partition("/")
        if not text.startswith("volume://") or not _VOLUME.fullmatch(name) or ".." in inside.split("/"):
            problems.add(
                trail, f"{secrecy.shown(text)} is not a place on a Modal Volume", "write `volume://name/path/`"
            )
            return None
        return f"volume://{posixpath.normpath(f'{name}/{inside}')}/"
    if scheme:
        hint = _other_name(scheme) or f"local folders, {_forms('prefix/')} and `volume://name/path/` are"
        if scheme == "file":
            hint = f"write `/{secrecy.printable(path.lstrip('/'))[:100]}`"
        problems.add(trail, f"sinks of the scheme `{scheme}` are not supported by this version", hint)
        return None
    uri = _local(problems, trail, text)
    if uri is None:
        return None
    folder = problems.spec.dir / uri
    if disk.exists(folder) and not disk.is_dir(folder):
        problems.add(trail, f"the sink {secrecy.shown(text)} is a file", "name a folder")
        return None
    resolved = folder.resolve()
    if resolved == problems.spec.dir or resolved in problems.spec.dir.parents:
        message = "the sink is the folder of the spec, or one above it"
        problems.add(trail, message, "use a folder of its own, for example `out/`")
        return None
    return f"{uri.rstrip('/')}/"


def _check_plain(problems: Problems, trail: Trail, text: str) -> bool:
    if "{tick" in text:
        problems.add(trail, "`{tick}` is not supported by this version", "write the date out")
        return False
    if text != text.strip() or "\n" in text:
        problems.add(trail, f"{secrecy.shown(text)} has white space around or line breaks in it", "remove them")
        return False
    return True


def _scheme(text: str) -> tuple[str, str]:
    """`s3` and `//bucket/key`; an empty scheme for a local path."""
    found = _SCHEME.match(text)
    if found and (text[found.end() :].startswith("/") or found[1].lower() in (*OBJECT_STORES, "volume")):
        return found[1].lower(), text[found.end() :]
    return "", text


def _check_object(problems: Problems, trail: Trail, text: str, scheme: str) -> bool:
    store = OBJECT_STORES[scheme]
    container, _, key = text.partition("://")[2].partition("/")
    if not text.startswith(f"{scheme}://") or not store.pattern.fullmatch(container):
        hint = f"write `{scheme}://{store.container}/{store.key}`; a {store.container} has {store.letters}"
        problems.add(trail, f"{secrecy.shown(text)} names no {store.name} {store.container}", hint)
        return False
    if any(segment in (".", "..") for segment in key.split("/")):
        hint = f"{store.name} knows no folders: write the {store.key} out"
        problems.add(trail, f"{secrecy.shown(text)} has `.` or `..` in its {store.key}", hint)
        return False
    return True


def _other_name(scheme: str) -> str | None:
    ours = _OTHER_NAMES.get(scheme, "")
    if ours == "az":
        return "write `az://container/…`, and the account as `endpoint_url: https://ACCOUNT.blob.core.windows.net`"
    return f"write `{ours}://{OBJECT_STORES[ours].container}/…`" if ours else None


def _forms(rest: str) -> str:
    """`s3://bucket/key`, …"""
    forms = [f"`{scheme}://{store.container}/{rest}`" for scheme, store in OBJECT_STORES.items()]
    return ", ".join(forms) if rest.endswith("/") else f"{', '.join(forms[:-1])} and {forms[-1]}"


def _local(problems: Problems, trail: Trail, text: str) -> str | None:
    """A local path in its shortest form, `/` at the end kept."""
    if text.startswith("~"):
        problems.add(trail, "`~` is not expanded", "write a path relative to the spec, or an absolute one")
        return None
    if "\\" in text:
        problems.add(trail, f"{secrecy.shown(text)} has a backslash", "write paths with `/`")
        return None
    normal = posixpath.normpath(text)
    return f"{normal}/" if text.endswith("/") and not normal.endswith("/") else normal


def _check_format(problems: Problems, trail: Trail, uri: str) -> bool:
    """Whether the name tells a format that is supported."""
    name = uri.rpartition("/")[2].lower()
    for ending in SUFFIXES.values():
        name = name.removesuffix(ending) if ending else name
    suffix = posixpath.splitext(name)[1]
    if suffix in FORMATS:
        return True
    if suffix in _OTHER_FORMATS:
        message = f"{_OTHER_FORMATS[suffix]} (`{suffix}`) is not supported by this version"
        problems.add(trail, message, "convert it to `.jsonl`, one JSON object a line")
        return False
    short = not isinstance(problems.spec.tree.get("source"), dict)
    example = f"{{uri: {secrecy.printable(uri)[:60]}, format: jsonl}}"
    hint = f"write `source: {example}`" if short else "add `format: jsonl` under `source`"
    problems.add(trail, f"the name {secrecy.shown(uri)} does not tell the format", hint)
    return False


def _check_exists(problems: Problems, trail: Trail, uri: str) -> None:
    root = problems.spec.dir
    if not has_wildcard(uri):
        path = root / uri
        if disk.is_dir(path):
            problems.add(
                trail, f"{secrecy.shown(uri)} is a folder", f"write `{uri}/*.jsonl`, or `{uri}/` for all files in it"
            )
        elif not disk.is_file(path):
            problems.add(trail, f"there is no file {secrecy.shown(uri)}", disk.near_path(root, uri))
        return
    folder, rest = split_pattern(uri)
    if not disk.is_dir(root / folder):
        problems.add(trail, f"there is no folder {secrecy.shown(folder)}", disk.near_path(root, folder.rstrip("/")))
    elif not _matches_any(root / folder, Pattern(rest)):
        problems.add(trail, f"no file matches {secrecy.shown(uri)}", "`allow_empty: true` under `source` accepts that")


def _matches_any(folder: Path, pattern: Pattern) -> bool:
    from modalbatch.stores.local import LocalStore

    try:
        entries = LocalStore(str(folder.resolve())).list(pattern.prefix, descend=pattern.may_lie_below)
        return any(pattern.matches(entry.name) for entry in entries)
    except ModalbatchError:
        return True  # a folder that cannot be listed: `plan` says why


def _check_keys(problems: Problems, side: str, given: dict[str, Any], uris: list[str]) -> None:
    """`endpoint_url` and `credentials` are those of one store, and of a kind that it knows."""
    schemes = sorted({uri.partition("://")[0] for uri in uris} & OBJECT_STORES.keys())
    keys = [key for key in ("endpoint_url", "credentials") if key in given]
    if not uris or not keys:
        return
    if len(schemes) != 1:
        known = listed(f"{scheme}://" for scheme in OBJECT_STORES)
        message = f"is for {known}, this {side} is on none of them"
        if schemes:
            message = f"is for one store, this {side} is on {listed((f'{scheme}://' for scheme in schemes), 'and')}"
        for key in keys:
            hint = "make it a job for each store" if schemes else "remove it"
            problems.add((side, key), f"`{key}` {message}", hint, at_key=True)
        return
    named = given.get("credentials", {})
    foreign = (
        (scheme, name) for scheme in OBJECT_STORES if scheme != schemes[0] for name in OBJECT_STORES[scheme].keys
    )
    for scheme, name in foreign if isinstance(named, dict) else ():
        if name in named:
            message = f"`{name}` is for `{scheme}://`, this {side} is on `{schemes[0]}://`"
            hint = f"{listed(OBJECT_STORES[schemes[0]].keys, 'and')} are for it"
            problems.add((side, "credentials", name), message, hint, at_key=True)
