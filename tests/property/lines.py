"""Strategies: file contents and cuts that are hard on whoever reads lines."""

from __future__ import annotations

from hypothesis import strategies as st

#: What ends lines for others, and what looks like the beginning or end of something.
_ODD = [b"\n", b"\r\n", b"\r", b"\n\n", b"\xe2\x80\xa8", b"\xc2\x85", b"\x0c", b"\x00", b"\xef\xbb\xbf", b"\xff", b" "]


def contents(max_pieces: int = 40) -> st.SearchStrategy[bytes]:
    """Any bytes, rich in line ends; with and without a byte order mark and a final newline."""
    piece = st.one_of(st.sampled_from(_ODD), st.binary(max_size=12), st.just(b'{"a":1}\n'))
    body = st.lists(piece, max_size=max_pieces).map(b"".join)
    # What begins like an archive is refused, and not our business here.
    return (
        st.tuples(st.sampled_from([b"", b"\xef\xbb\xbf"]), body)
        .map(b"".join)
        .filter(lambda data: not data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")))
    )


def true_lines(data: bytes) -> list[bytes]:
    """The lines of a file: they end with a newline and nothing else; the mark is not part of the first."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
