"""Generators: what they yield comes whole, in order, and before how they end."""

from __future__ import annotations

import uuid


def test_every_way_to_yield(bench):
    """sync and async functions and methods, `remote_gen` from the client and from containers, empty and large ones,
    exceptions, a crash in between.
    """
    found = bench.run("generators.py::main", "--fresh", uuid.uuid4().hex)
    assert found["sync"] == found["async"] == [0, 1, 2, 3, 4]
    assert found["none"] == []
    assert found["aio"] == [[0, 1, 2, 3]] * 2
    assert found["many"]
    assert found["method"] == [7, 8, 9]
    assert found["async_method"] == [0, -1, -2]
    assert found["nested"] == [0, 10, 20]
    assert found["nested_async"] == 45
    assert found["large"] == [10, 3_000_000, 1_000_000]
    assert found["crash"] == [0, 1, 2, 3, 4, 5]
    assert found["before_error"] == 30
    assert found["before_large_error"] == 3
    assert found["error"] == found["large_error"] == "KeyError: 'missing'"
    assert list((bench.home / "engine" / "blobs").iterdir()) == []


def test_a_caller_that_stops_early_frees_the_container(bench):
    found = bench.run("generators.py::leave")
    assert found["served"] == 2
    assert found["containers"] == 2
    assert found["later"] == [5, 5]


def test_a_caller_that_reads_slowly_gets_everything_and_blocks_nobody(bench):
    found = bench.run("generators.py::slow")
    assert found["total"] == 20_000_000
    assert found["others"] == sum(range(20))
