"""The numbers of a generator's chunks."""

from __future__ import annotations

from modalbatch.engines.local.calls.stream import MAX_WAITING_BYTES, DataStream
from modalbatch.engines.local.wire import proto


def _chunks(first, *sizes):
    return [proto.DataChunk(index=first + i, data=b"x" * size) for i, size in enumerate(sizes)]


def test_a_caller_that_comes_again_confirms_what_it_has():
    stream = DataStream()
    stream.put(_chunks(1, 5, 6, 7))
    assert [chunk.index for chunk in stream.confirm(2)] == [1, 2]
    assert not stream.is_confirmed
    assert stream.after(1) is None
    assert len(stream.after(2).data) == 7
    assert [chunk.index for chunk in stream.confirm(3)] == [3]
    assert stream.is_confirmed


def test_a_generator_that_starts_again_adds_only_what_is_new():
    stream = DataStream()
    stream.put(_chunks(1, 5, 5))
    stream.confirm(1)
    stream.put(_chunks(1, 9, 9, 9))
    assert stream.after(0) is None
    assert [len(stream.after(number).data) for number in (1, 2)] == [5, 9]


def test_it_is_full_until_enough_is_confirmed():
    stream = DataStream()
    half = MAX_WAITING_BYTES // 2
    stream.put(_chunks(1, half, half))
    assert stream.is_full
    stream.confirm(1)
    assert not stream.is_full
