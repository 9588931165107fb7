"""A plan in numbers, and the reason for each of its units. Runs on: both. Reads the index after `settle_removed`."""

from __future__ import annotations

from typing import NamedTuple

from modalbatch.driver.index import UNCOVERED, WHOLE, Index, receipt_of

#: Every wanted unit with its reason, in listing order.
_REASONS = f"""
CREATE TEMP TABLE reason AS SELECT seq, uri, size, CASE
  WHEN EXISTS (SELECT 1 FROM cover WHERE cover.unit = wanted.unit) OR wanted.unit IN {WHOLE} THEN 'kept'
  WHEN NOT EXISTS (SELECT 1 FROM was WHERE was.uri = wanted.uri) THEN 'new'
  WHEN EXISTS (SELECT 1 FROM lost WHERE lost.unit = wanted.unit) THEN 'lost'
  WHEN EXISTS (SELECT 1 FROM same WHERE same.unit = wanted.unit) THEN 'packed'
  WHEN EXISTS (SELECT 1 FROM was WHERE was.uri = wanted.uri AND accepted) THEN 'input'
  ELSE 'code' END AS why
FROM (SELECT unit, seq, json_extract(json, '$[0]') AS uri,
             json_extract(json, '$[4]') - json_extract(json, '$[3]') AS size FROM want) AS wanted
"""  # noqa: S608


class Tally(NamedTuple):
    """A plan in numbers, units each (see `plan`)."""

    #: Wanted and done.
    kept: int
    #: Wanted, not done, and nothing was ever done for this input.
    new: int
    #: Wanted, not done, and an older state of the same input is live …
    changed: int
    #: … of which so many because the handler or an option changed, not the input.
    by_code: int
    #: Inputs with live output that are gone; their output is kept or dropped as the spec says.
    removed: int


class Group(NamedTuple):
    """Wanted units that share a reason."""

    n_units: int = 0
    n_inputs: int = 0
    n_bytes: int = 0
    #: URIs of the first few inputs.
    examples: tuple[str, ...] = ()


class Reasons(NamedTuple):
    """A plan with its reasons: each wanted unit is in one group, and what is gone in the last."""

    kept: Group
    #: Nothing was ever done for the input.
    new: Group
    #: The input is another one than before …
    input: Group
    #: … or the handler or an option is …
    code: Group
    #: … or nothing is, but it was done in one pack with a changed input …
    packed: Group
    #: … or its output is not there any more.
    lost: Group
    #: Inputs with live output that are gone; in inputs only.
    removed: Group


def tally(index: Index) -> Tally:
    """The plan in numbers; after `settle_removed`."""
    missing = f"SELECT json_extract(json, '$[0]') AS uri FROM want WHERE {UNCOVERED}"  # noqa: S608
    kept = index.n_wanted() - index.n_todo()
    changed = index.count(f"SELECT count(*) FROM ({missing}) WHERE uri IN (SELECT uri FROM was)")  # noqa: S608
    by_code = index.count(
        f"SELECT count(*) FROM ({missing}) WHERE uri IN (SELECT uri FROM was) "  # noqa: S608
        "AND uri NOT IN (SELECT uri FROM was WHERE accepted)"
    )
    removed = index.count("SELECT count(DISTINCT uri) FROM was WHERE uri NOT IN (SELECT uri FROM listed)")
    return Tally(kept, index.n_todo() - changed, changed, by_code, removed)


def reasons(index: Index, n_examples: int) -> Reasons:
    """The plan with its reasons; after `settle_removed`."""
    rows = index.query("SELECT json FROM receipt WHERE live AND accepted AND NOT chosen")
    for (text,) in rows:
        receipt = receipt_of(text)
        table = "same" if index.has_parts(receipt) else "lost"
        ids = [(unit.stem,) for unit in receipt.units]
        index.insert(table, ids)
    index.query(_REASONS)
    sums = "SELECT why, count(*), count(DISTINCT uri), sum(size) FROM reason GROUP BY why"
    some = "SELECT uri FROM reason WHERE why = ? GROUP BY uri ORDER BY min(seq) LIMIT ?"
    groups = {
        why: Group(n_units, n_inputs, n_bytes, tuple(uri for (uri,) in index.query(some, why, n_examples)))
        for why, n_units, n_inputs, n_bytes in index.query(sums).fetchall()
    }
    index.query("DROP TABLE reason")
    gone = "FROM (SELECT DISTINCT uri FROM was WHERE uri NOT IN (SELECT uri FROM listed))"
    names = index.query(f"SELECT uri {gone} ORDER BY uri LIMIT ?", n_examples)
    groups["removed"] = Group(0, index.count(f"SELECT count(*) {gone}"), 0, tuple(uri for (uri,) in names))
    return Reasons(**{why: groups.get(why, Group()) for why in Reasons._fields})
