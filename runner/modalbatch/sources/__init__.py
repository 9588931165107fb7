"""Where records come from: listing, cutting and reading input. Runs on: both. A source never knows a sink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from modalbatch.job import volume_paths
from modalbatch.records import Input, Unit

if TYPE_CHECKING:
    from modalbatch.job import Job
    from modalbatch.stores import Store


__all__ = ["Input", "Source", "Unit", "open_source"]


class Source(Protocol):
    """Lists and reads one job's input."""

    def inputs(self) -> Iterator[Input]:
        """Every input once, in the order of the URIs given and byte order of names in each; lazy."""

    def units(self) -> Iterator[Unit]:
        """The inputs, cut by the rule; lazy. The cut of an input depends on it and the rule alone."""

    def open(self, unit: Unit) -> BinaryIO:
        """The unit's lines as a buffered stream of *decompressed* bytes: exactly those that begin in its range.

        `tell()` of the stream counts from the unit's first line; `Unit.start` + skipped bytes is not its business.

        Raises:
            InputChangedError: the object is not the one that was listed.
        """


def open_source(
    job: Job,
    roots: Mapping[str, str],
    *,
    in_container: bool = False,
    identity_cache: str | None = None,
    manifest_parts: Callable[[Store], Iterable[str] | None] | None = None,
) -> Source:
    """The job's source under these roots.

    `identity_cache`: file of known content hashes of local files. `manifest_parts`: what of a folder that is itself a
    sink counts as input. `in_container`: Modal Volumes are read where they are mounted.
    """
    from modalbatch.sources.files import FileSource

    return FileSource(
        job.source,
        {key: root if key else root.rstrip("/") + "/" for key, root in roots.items()},
        Path(identity_cache) if identity_cache else None,
        volume_paths=volume_paths(job) if in_container else {},
        manifest_parts=manifest_parts,
    )
