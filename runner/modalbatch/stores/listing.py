"""Listings that leave out folders nobody wants. Runs on: both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from modalbatch.stores import Entry

#: A name relative to the root of the store, with its entry; None for a folder (`sub/`).
Item = tuple[str, "Entry | None"]


def in_byte_order(page: Iterable[Item]) -> list[Item]:
    """One page, as the contract of `Store.list` orders it. The root's own marker, a name of no length, is left out."""
    named = (item for item in page if item[0])
    return sorted(named, key=lambda item: item[0].encode("utf-8", "surrogatepass"))


def pruned(items: Callable[[str, str], Iterator[Item]], descend: Callable[[str], bool] | None) -> Iterator[Entry]:
    """Objects of `items(delimiter, after)`, a listing that begins behind the name `after`.

    Folders are listed as such until `descend` wants one; from there on everything is listed, a page a request, and
    `descend` is asked no more: a request for each of many folders would cost more.
    """
    after = ""
    if descend:
        for name, entry in items("/", ""):
            if entry:
                yield entry
            elif descend(name):
                break
            after = name
        else:
            return
    for _, entry in items("", after):
        if entry:
            yield entry
