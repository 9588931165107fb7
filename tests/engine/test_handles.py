"""What can be asked of a call and of a function, and the variants of a function."""

from __future__ import annotations

import modal
import pytest


def test_every_handle_answers(bench):
    """`for_each`, `spawn_map`, `iter`, `get(index=)`, call info and graph, `with_options`,
    `with_concurrency`, `with_batching`.
    """
    found = bench.run("handles.py::main")
    assert found["for_each"] is found["ignored"] is found["spawn_map"] is None
    assert found["raised"] == found["gather_raised"] == "ValueError: not this one"
    assert found["n_inputs"] == [120, 120, 1]
    assert found["index"] == [49, 119 * 119]
    assert found["iter"] == [sum(i * i for i in range(120)), [100 * 100, 101 * 101]]
    assert found["gather"] == [16, 25]
    assert found["graph"] == [[["square", "handles", "SUCCESS", 0]], [["square", "handles", "FAILURE", 0]]]
    assert found["many_graph"] == 120
    assert found["options"] == found["concurrency"] == 9
    assert found["batching"] == [3, 3, 3]
    assert found["class_options"] == 10
    assert found["class_concurrency"] == 12


@pytest.mark.skipif(not hasattr(modal.Function, "stats"), reason="new in modal 1.6")
def test_a_function_says_how_it_is_used_and_scaled(bench):
    """`stats`, `get_current_stats`, `autoscaler`."""
    found = bench.run("handles.py::numbers")
    n_good = 120 + 3 + 2 + 1 + 3 + 2  # both maps of good inputs, what failed maps had besides, and spawned ones
    good, bad, crashed = found["stats"]
    assert n_good - 4 <= good <= n_good  # nobody waited for the four of `spawn_map` and of the map that raised
    assert (bad, crashed) == (4, 0)
    assert found["rollup"] == 2
    assert found["current"] == [0, 0, True]
    assert found["autoscaler"] == [[None, 1, None], [1, 1, 20], [0, None, 20], [0, None, 20]]
