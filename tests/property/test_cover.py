"""Which pieces of a divided unit count together."""

from __future__ import annotations

from itertools import chain, combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from modalbatch.driver.cover import Piece, choose_pieces, gaps
from modalbatch.records import ALL_LINES

LINES = st.integers(0, 6)
BOUNDS = st.tuples(LINES, st.integers(1, 6) | st.just(ALL_LINES)).filter(lambda bounds: bounds[0] < bounds[1])
PIECES = st.lists(BOUNDS, max_size=7, unique=True).map(
    lambda found: [Piece(low, high, f"{n}") for n, (low, high) in enumerate(found)]
)


def covers(pieces: list[Piece]) -> bool:
    return list(gaps([(piece.low, piece.high) for piece in pieces])) == []


def fit(pieces: list[Piece]) -> bool:
    return all(before.high <= after.low for before, after in pairwise(pieces))


@given(PIECES)
def test_no_line_is_chosen_twice_and_a_whole_unit_is_found_if_there_is_one(pieces: list[Piece]) -> None:
    chosen = choose_pieces(pieces)
    assert set(chosen) <= set(pieces)
    assert fit(chosen)
    subsets = chain.from_iterable(combinations(sorted(pieces), n) for n in range(len(pieces) + 1))
    assert covers(chosen) == any(fit(list(subset)) and covers(list(subset)) for subset in subsets)
    # Nothing that would fit is left out.
    for piece in pieces:
        assert piece in chosen or any(piece.low < it.high and it.low < piece.high for it in chosen)


@given(st.lists(st.integers(1, 20), max_size=8, unique=True).map(sorted))
def test_gaps_and_ranges_side_by_side_are_all_lines(cuts: list[int]) -> None:
    bounds = [0, *cuts, ALL_LINES]
    ranges = list(pairwise(bounds))
    assert list(gaps(ranges)) == []
    assert list(gaps(ranges[::2])) == ranges[1::2]
    assert list(gaps([])) == [(0, ALL_LINES)]
