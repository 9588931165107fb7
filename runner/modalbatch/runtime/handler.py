"""The user's handler: found, constructed and called in one way. Runs on: container.

Owns the contract of a handler: function, class, generator, coroutine; one record or a batch. Classifies what it raises.
"""

from __future__ import annotations

import importlib
import inspect
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from modalbatch.errors import ModalbatchError

if TYPE_CHECKING:
    from modalbatch.job import Job

Record = dict[str, Any]

#: An error may ask for no longer wait than this.
MAX_RETRY_AFTER_S = 3600.0
MAX_MESSAGE = 2000
MAX_TRACEBACK = 8000
#: `torch`, `cupy` and `pycuda` have the first, TensorFlow the second.
_OOM_TYPES = frozenset({"OutOfMemoryError", "ResourceExhaustedError"})
_OOM_WORDS = ("out of memory", "RESOURCE_EXHAUSTED", "CUBLAS_STATUS_ALLOC_FAILED")
_TRANSIENT_STATUS = frozenset({408, 425, 429, *range(500, 600)})


class Retry(Exception):
    """Raise it in a handler: this record is worth another try, `after` seconds from now."""

    def __init__(self, message: str = "the handler asked for another try", *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Reject(Exception):
    """Raise it in a handler: this record is wrong and goes to the dead letters at once."""


class Failure(NamedTuple):
    """What stands in for a result that never came."""

    #: `raised`, `rejected`, `oom`, `crash`, `timeout`, `undecodable`, `oversize`.
    cause: str
    error: dict[str, str]
    attempts: int


class Handler:
    """The constructed handler; one in each slot."""

    def __init__(self, job: Job) -> None:
        self.batched = job.handler.batch_size is not None
        #: Whether a split has been through this slot.
        self.is_used = False
        target = find(job.handler.call)
        if inspect.isclass(target):
            self._instance: Any = target(**job.handler.args)
            self._kwargs: dict[str, Any] = {}
            target = self._instance
            function = type(self._instance).__call__
        else:
            self._instance = None
            self._kwargs = job.handler.args
            function = target if inspect.isroutine(target) else type(target).__call__
        self.is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self._is_async_generator = inspect.isasyncgenfunction(function)
        self._target = target

    def bare(self) -> Callable[[Record], Any]:
        """The callable itself: for the loop that looks at each result's type."""
        if not self._kwargs:
            return self._target  # type: ignore[no-any-return]
        target, kwargs = self._target, self._kwargs
        return lambda record: target(record, **kwargs)

    def call(self, records: Sequence[Record]) -> list[Any]:
        """One call: a result for each record. Iterators are drained here, so that what they raise belongs to the call.

        Raises:
            Exception: whatever the handler raises; TypeError for results that are none.
        """
        got = self._target(list(records) if self.batched else records[0], **self._kwargs)
        return self._results(got, len(records))

    async def call_async(self, records: Sequence[Record]) -> list[Any]:
        """`call`, for coroutines and asynchronous generators."""
        got = self._target(list(records) if self.batched else records[0], **self._kwargs)
        got = [item async for item in got] if self._is_async_generator else await got
        return self._results(got, len(records))

    def _results(self, got: Any, n_records: int) -> list[Any]:
        if not self.batched:
            return [normal(got)]
        if not isinstance(got, (list, tuple)):
            got = list(got) if isinstance(got, Iterator) else got
        if not isinstance(got, (list, tuple)) or len(got) != n_records:
            found = f"{len(got)} results" if isinstance(got, (list, tuple)) else type(got).__name__
            raise TypeError(
                f"the handler must return a list of {n_records} results for {n_records} records, not {found}"
            )
        return [item if isinstance(item, Exception) else normal(item) for item in got]

    def close(self) -> None:
        """`close()` of the user's object, if it has one."""
        close = getattr(self._instance, "close", None)
        if callable(close):
            got = close()
            if inspect.isawaitable(got):
                import asyncio

                asyncio.run(_wait_for(got))


async def _wait_for(awaitable: Any) -> None:
    await awaitable


def find(call: str) -> Any:
    """The object that `module:name` names.

    Raises:
        ModalbatchError: the module has no such name.
    """
    module_name, _, name = call.partition(":")
    target: Any = importlib.import_module(module_name)
    for piece in name.split("."):
        try:
            target = getattr(target, piece)
        except AttributeError:
            raise ModalbatchError(f"`{module_name}` has no `{name}`") from None
    return target


def normal(result: Any) -> Any:
    """A handler's result as a dict, None, or a list of dicts; plain ones: a subclass may show each reader another face.

    Raises:
        TypeError: anything else.
    """
    if result is None:
        return None
    if isinstance(result, dict):
        return _plain(result)
    if isinstance(result, (list, tuple, Iterator)):
        many = list(result)
        for item in many:
            if not isinstance(item, dict):
                raise TypeError(f"the handler returned a list with a {type(item).__name__}; each item must be a dict")
        return [_plain(item) for item in many]
    if inspect.isawaitable(result):
        getattr(result, "close", lambda: None)()
        raise TypeError("the handler returned a coroutine that nobody awaits; declare it with `async def`")
    raise TypeError(f"the handler returned a {type(result).__name__}; return a dict, None, or a list of dicts")


def _plain(result: Any) -> Record:
    return result if type(result) is dict else dict(result)


def merged(result: Record, kept: Record) -> Record:
    """A new record, since the handler may return the same one again; its own fields win."""
    if kept.keys().isdisjoint(result):
        return {**result, **kept}
    return {**result, **{name: value for name, value in kept.items() if name not in result}}


def describe(error: BaseException) -> dict[str, str]:
    """Type, message and traceback as capped text: no exception object ever leaves the slot.

    It is an object of the handler: whatever it does when it is looked at must not end the slot.
    """
    kind = type(error)
    try:
        _forget_earlier_tries(error)
        text = "".join(traceback.format_exception(kind, error, user_frames(error.__traceback__)))
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    except Exception:
        text, name = "", "Exception"
    return {
        "type": _clean(name)[:MAX_MESSAGE],
        "message": _printable(error)[:MAX_MESSAGE],
        "traceback": _clean(
            text if len(text) <= MAX_TRACEBACK else text[: MAX_TRACEBACK // 2] + "\n…\n" + text[-MAX_TRACEBACK // 2 :]
        ),
    }


def _printable(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as unprintable:  # a user's __str__ may raise
        text = f"(its message cannot be printed: {type(unprintable).__name__})"
    return _clean(text)


def _clean(text: str) -> str:
    """What can be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def user_frames(trace: Any) -> Any:
    """The traceback from the first frame that is not ours."""
    first = trace
    while _is_ours(trace):
        trace = trace.tb_next
    return trace or first


def _forget_earlier_tries(error: BaseException) -> None:
    """Cut the chain of contexts where it leaves the user's code: what we caught is another try, not a cause."""
    inner, seen = error, set()
    while inner.__context__ is not None and id(inner) not in seen:
        seen.add(id(inner))
        if _is_ours(inner.__context__.__traceback__):
            inner.__context__ = None
            return
        inner = inner.__context__


def _is_ours(trace: Any) -> bool:
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("modalbatch.")


def is_transient(error: BaseException, retry_on: frozenset[str]) -> bool:
    """Whether the failure is worth another try by itself (`guarantees.md` section 5)."""
    if isinstance(error, (Retry, TimeoutError, ConnectionError)):
        return True
    if type(error).__name__ == "TimeoutError":  # in Python 3.10 asyncio and concurrent.futures have their own
        return True
    if any(
        f"{cls.__module__}.{cls.__qualname__}" in retry_on or cls.__qualname__ in retry_on
        for cls in type(error).__mro__
    ):
        return True
    try:
        return _status(error) in _TRANSIENT_STATUS
    except Exception:  # of an attribute that is computed
        return False


def _status(error: Any) -> int:
    """The HTTP status that an error carries, as most clients do; 0 where it has none."""
    response = getattr(error, "response", None)
    status = (
        getattr(error, "status_code", None) or getattr(error, "status", None) or getattr(response, "status_code", None)
    )
    return int(status) if isinstance(status, int) else 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, the machine's or a GPU's: by name, since frameworks have types of their own."""
    if isinstance(error, MemoryError) or any(cls.__name__ in _OOM_TYPES for cls in type(error).__mro__):
        return True
    # CUDA's own errors, and those of XLA, come as RuntimeError.
    return isinstance(error, RuntimeError) and any(words in _printable(error) for words in _OOM_WORDS)


def retry_after_s(error: BaseException, now: Callable[[], float] = time.time) -> float | None:
    """Seconds that the error itself asks to wait: `Retry(after=…)`, or a `Retry-After` header in seconds or as a date.

    None where nothing is asked that makes sense, such as a date that is over: the spec's own back-off holds.
    """
    try:
        asked = error.after if isinstance(error, Retry) else _retry_after(error)
        seconds = _seconds_until(asked, now()) if isinstance(asked, str) else float(asked)  # type: ignore[arg-type]
    except Exception:
        return None
    if seconds is None or not math.isfinite(seconds):
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)


def _retry_after(error: Any) -> Any:
    headers = getattr(getattr(error, "response", None), "headers", None) or error.headers
    return headers.get("retry-after", headers.get("Retry-After"))


def _seconds_until(asked: str, now_s: float) -> float | None:
    try:
        return float(asked)
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime  # 15 ms of every slot's start otherwise

    when = parsedate_to_datetime(asked)
    # A zone of `-0000` is UTC too.
    left_s = when.replace(tzinfo=when.tzinfo or timezone.utc).timestamp() - now_s
    return left_s if left_s > 0 else None
