"""Whose failure it was, counted exactly: the policy as steps, without slots and without waiting."""

from __future__ import annotations

import pytest

from modalbatch.job import Handler, Job, Retries, Sink, Source
from modalbatch.runtime.attempts import Call, Item, Policy, Sleep
from modalbatch.runtime.handler import Reject, Retry, is_transient, retry_after_s


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


# -- transient failures

WITHIN = "Wed, 21 Oct 2015 07:28:30 GMT"
NOW_S = 1445412480.0  # half a minute before


class Sdk(Exception):
    def __init__(self, **fields) -> None:
        super().__init__("sdk")
        for name, value in fields.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("4", 4.0),
        (" 4.5 ", 4.5),
        (0, 0.0),
        ("-3", 0.0),
        ("1000000", 3600.0),
        (WITHIN, 30.0),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 09:28:30 +0200", 30.0),
        ("Wed, 21 Oct 2015 07:28:30 -0000", 30.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Wed, 21 Oct 2015 07:27:30 GMT", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        (None, None),
        (object(), None),
        ("9" * 400, None),
        ("\ud800", None),
    ],
)
def test_what_a_server_asks_to_wait(asked, seconds) -> None:
    headers = {"Retry-After": asked}
    for error in (Status(429, headers), Sdk(status=429, headers={"retry-after": asked}), Retry(after=asked)):
        assert retry_after_s(error, lambda: NOW_S) == seconds


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("name", ["status_code", "status", "response"])
def test_statuses_that_are_worth_another_try(status, name) -> None:
    value = Sdk(status_code=status) if name == "response" else status
    assert is_transient(Sdk(**{name: value}), frozenset())


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 409, 422, 600, "503", None, True])
def test_statuses_that_are_not(status) -> None:
    assert not is_transient(Sdk(status_code=status), frozenset())


# -- memory


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


def limited(most: int, culprits: frozenset[int] = frozenset(), error: type[Exception] = OutOfMemoryError):
    """A handler that bears `most` records at a time, and some not even alone; it notes the size of each failure."""

    def handler(items, n_calls):
        if len(items) > most or culprits & {item.ordinal for item in items}:
            failures.append(len(items))
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [item.record for item in items]

    failures: list[int] = []
    handler.failures = failures
    return handler


@pytest.mark.parametrize("error", [OutOfMemoryError, MemoryError, RuntimeError])
@pytest.mark.parametrize(("most", "kept"), [(1, 1), (5, 4), (8, 8), (63, 32), (64, 0)])
def test_batches_shrink_to_what_memory_bears(most, kept, error) -> None:
    steps, handler = policy(), limited(most, error=error)
    results, _, slept = follow(steps, handler, 64)
    assert results == [{"n": n} for n in range(64)]
    assert (steps.most, slept) == (kept, [])
    n_failures = len(handler.failures)
    assert n_failures <= 6
    for _ in range(20):  # batches to come begin with what is known
        follow(steps, handler, 64)
    assert len(handler.failures) == n_failures


@pytest.mark.parametrize("culprit", [0, 31, 63])
def test_a_record_that_is_too_large_alone_does_not_shrink_batches(culprit) -> None:
    steps = policy()
    results, _, _ = follow(steps, limited(64, frozenset({culprit})), 64)
    assert [getattr(result, "cause", None) for result in results] == [
        "oom" if n == culprit else None for n in range(64)
    ]
    assert steps.most == 0


def test_what_filled_the_memory_is_let_go_before_the_next_try() -> None:
    """A traceback holds its frames, and those the tensors: the halves would not fit either."""

    class Tensor:
        alive = 0

        def __init__(self) -> None:
            Tensor.alive += 1

        def __del__(self) -> None:
            Tensor.alive -= 1

    def handler(items, n_calls):
        found.append(Tensor.alive)
        held = Tensor()
        if n_calls == 1:
            raise MemoryError
        return [item.record for item in items if held]

    found: list[int] = []
    follow(policy(), handler, 4)
    assert found == [0, 0, 0]
