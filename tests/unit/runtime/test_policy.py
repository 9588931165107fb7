"""Whose failure it was, counted exactly: the policy as steps, without slots and without waiting."""

from __future__ import annotations

import pytest

from modalbatch.job import Handler, Job, Retries, Sink, Source
from modalbatch.runtime.attempts import Call, Item, Policy, Sleep
from modalbatch.runtime.handler import Reject, Retry


def policy(max_retries: int = 3, retry_on: tuple[str, ...] = ()) -> Policy:
    return Policy(
        Job(
            name="p",
            handler=Handler(call="a:b"),
            source=Source(uris=()),
            sink=Sink(uri="/o/"),
            retries=Retries(max_retries=max_retries, initial_delay_s=1.0, backoff_coefficient=2.0, max_delay_s=3.0),
            retry_on=retry_on,
        )
    )


def follow(policy: Policy, handler, n_records: int = 1):
    """Carry the steps out: results, number of calls, seconds that would have been slept."""
    items = [Item(n, 0, b"", {"n": n}) for n in range(n_records)]
    steps, slept, n_calls = policy.settle(items), [], 0
    try:
        step = next(steps)
        while True:
            if isinstance(step, Sleep):
                slept.append(step.seconds)
                step = steps.send(None)
                continue
            assert isinstance(step, Call)
            n_calls += 1
            try:
                results = handler(step.items, n_calls)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(results)
    except StopIteration as end:
        return end.value, n_calls, slept


def raising(*errors):
    def handler(items, n_calls):
        error = errors[min(n_calls, len(errors)) - 1]
        if error:
            raise error
        return [item.record for item in items]

    return handler


class Status(Exception):
    def __init__(self, status_code, headers=None) -> None:
        super().__init__(status_code)
        self.response = type("R", (), {"status_code": status_code, "headers": headers or {}})()


@pytest.mark.parametrize(
    ("errors", "n_calls", "slept", "cause"),
    [
        ([None], 1, [], None),
        ([ValueError("a")], 2, [], "raised"),
        ([ValueError("a"), None], 2, [], None),
        ([ValueError("a"), ValueError("b"), ValueError("c"), ValueError("d"), None], 4, [1.0, 2.0], "raised"),
        ([TimeoutError()], 4, [1.0, 2.0, 3.0], "raised"),
        ([ConnectionResetError(), None], 2, [1.0], None),
        ([Retry(), Retry(after=7.5), None], 3, [1.0, 7.5], None),
        ([Retry(after=0)], 4, [], "raised"),
        ([Reject("no")], 1, [], "rejected"),
        ([TimeoutError(), Reject("no")], 2, [1.0], "rejected"),
        ([MemoryError()], 2, [], "oom"),
        ([SystemExit(3)], 2, [], "raised"),
        ([Status(429, {"Retry-After": "4"}), None], 2, [4.0], None),
        ([Status(503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), None], 2, [1.0], None),
        ([Status(404)], 2, [], "raised"),
    ],
)
def test_single_records(errors, n_calls, slept, cause) -> None:
    results, n_made, n_slept = follow(policy(), raising(*errors))
    assert (n_made, n_slept) == (n_calls, slept)
    assert getattr(results[0], "cause", None) == cause
    if cause:
        assert results[0].attempts == n_calls


def test_no_retries_means_one_call() -> None:
    assert follow(policy(0), raising(TimeoutError()))[1:] == (1, [])


@pytest.mark.parametrize("name", ["ZeroDivisionError", "builtins.ZeroDivisionError", "builtins.ArithmeticError"])
def test_retry_on_names_a_type_or_its_base(name) -> None:
    assert follow(policy(retry_on=(name,)), raising(ZeroDivisionError()))[1:] == (4, [1.0, 2.0, 3.0])


def test_a_transient_failure_repeats_the_whole_batch() -> None:
    results, n_calls, slept = follow(policy(), raising(TimeoutError(), None), 8)
    assert (len(results), n_calls, slept) == (8, 2, [1.0])


@pytest.mark.parametrize("n_records", [1, 2, 3, 7, 8, 64])
@pytest.mark.parametrize("culprit", [0, -1])
def test_a_batch_is_halved_to_its_culprit(n_records, culprit) -> None:
    culprit %= n_records

    def handler(items, n_calls):
        if any(item.ordinal == culprit for item in items):
            raise ValueError("it")
        return [item.record for item in items]

    results, _, slept = follow(policy(), handler, n_records)
    assert [getattr(result, "cause", "fine") for result in results] == [
        "raised" if n == culprit else "fine" for n in range(n_records)
    ]
    assert slept == []
