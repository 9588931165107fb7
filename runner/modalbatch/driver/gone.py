"""Inputs that are gone: what of their output stays, and what goes with the rest of its split. Runs on: both."""

from __future__ import annotations

from collections import Counter

from modalbatch.driver.index import Index, receipt_of
from modalbatch.records import ALL_LINES


def settle_removed(index: Index, on_removed: str) -> None:
    """After the whole source was listed: give up receipts that mix what is wanted with what is not any more.

    A receipt stays iff each of its units is wanted, or stands while its input is gone and `on_removed` is `keep`.
    What an older handler made of an input that is gone stays too: nobody can make it again. A receipt that no
    manifest ever listed does not: an input could have one for each of its earlier states. Where a live receipt is
    given up for some of its units, those that are gone are carried over (`carries`).
    """
    keep = on_removed == "keep"
    given_up = "AND (NOT stands OR EXISTS (SELECT 1 FROM listed WHERE listed.uri = cover.uri))" if keep else ""
    n_given_up = index.query(
        "UPDATE receipt SET chosen = 0 WHERE name IN "  # noqa: S608
        f"(SELECT receipt FROM cover JOIN receipt ON name = receipt WHERE seen = 0 {given_up})"
    ).rowcount
    torn = _torn(index)
    for table in ("cover", "piece"):
        sql = f"DELETE FROM {table} WHERE receipt IN (SELECT name FROM receipt WHERE NOT chosen)"  # noqa: S608
        index.query(sql)
    if n_given_up:
        _choose_instead(index)
    if keep and index.count("SELECT EXISTS (SELECT 1 FROM was WHERE uri NOT IN (SELECT uri FROM listed))"):
        _keep_gone(index, torn)


def _torn(index: Index) -> set[str]:
    """Units that are gone, and of which somebody deleted a piece that nobody can make again.

    A part of a unit is none: the receipts with their other pieces are given up.
    """
    left: Counter[str] = Counter()
    for stem, n_lines, name in index.query("SELECT * FROM lived WHERE stem NOT IN (SELECT unit FROM want)").fetchall():
        left[stem] += n_lines if name and index.has_parts(index.receipt(name)) else 0
    torn = {stem for stem, n_lines in left.items() if n_lines != ALL_LINES}
    for stem in torn:
        index.query("UPDATE receipt SET chosen = 0 WHERE name IN (SELECT receipt FROM piece WHERE stem = ?)", stem)
    return torn


def _choose_instead(index: Index) -> None:
    """What a run that died before its manifest did in place of what is given up now."""
    rows = index.query("SELECT name FROM receipt WHERE accepted AND NOT chosen ORDER BY generation DESC, name")
    for (name,) in rows:
        receipt = index.receipt(name)
        if not index.wants(receipt.units):
            index.query("DELETE FROM loose WHERE receipt = ?", name)
        elif not any(unit.is_piece for unit in receipt.units):
            index.consider(name, receipt)
    index.choose_loose()


def _keep_gone(index: Index, torn: set[str]) -> None:
    last = ""
    sql = "SELECT name, json FROM receipt WHERE stands AND NOT chosen AND name > ? ORDER BY name"
    while rows := index.query(f"{sql} LIMIT 1000", last).fetchall():
        last = rows[-1][0]
        for name, text in rows:
            receipt = receipt_of(text)
            gone = [unit for unit in receipt.units if not _is_listed(index, unit.uri) and unit.stem not in torn]
            if len(gone) == len(receipt.units):
                index.consider(name, receipt)
            elif gone and len(receipt.unit_counts) == len(receipt.units) and index.has_parts(receipt):
                values = [(unit.id, name) for unit in gone]
                index.insert("carry", values)


def _is_listed(index: Index, uri: str) -> bool:
    return index.query("SELECT 1 FROM listed WHERE uri = ?", uri).fetchone() is not None
