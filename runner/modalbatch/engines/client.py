"""The client of an engine: one run of an app, from its start to the outcome, as events. Runs on: laptop.

Owns everything of a run that needs `modal`: in a child process of the command (`python -m modalbatch.engines.client`,
JSON lines: orders in, events out), or in a thread of `modal run`. Prints nothing for people; decides nothing about
the run.

Orders: `open` an app, `drive` it, have it `inspect` its sink or a worker of it `rehearse` one record, `attach` to a
call of an earlier command, tell its `progress` once, `leave`.
Events: `opened`, `started`, `progress`, `log`, `outcome`, `answer`, `error`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalbatch.canonical import Json, encode
from modalbatch.errors import InternalError, ModalbatchError, UnavailableError, UsageError

if TYPE_CHECKING:
    import modal

Emit = Callable[[Json], None]

#: Seconds between looks at the progress; the end of the run does not wait for one.
POLL_S = 0.4
#: Lines of containers that are shown with a failure.
TAIL_LINES = 20
#: Seconds for which output that is on its way is waited for, once the run is over.
LAST_WORDS_S = 0.5
_PR_SET_PDEATHSIG = 1
AGAIN = "apply again: what is done stays done"


async def conduct(drive: modal.Function[..., Any, Any], order: Mapping[str, Any], app: modal.App, emit: Emit) -> None:
    """Spawn `drive` with the order's request and report the run until its outcome.

    Raises:
        ModalbatchError: the run was not started, or its end cannot be known.
    """
    request = dict(order["request"])
    request["engine"] = {**request["engine"], "app_id": app.app_id or ""}
    try:
        call = await drive.spawn.aio(encode(request))
    except Exception as error:
        raise trouble(error) from error
    emit({"event": "started", "run_id": request["run_id"], "call_id": call.object_id, "app_id": app.app_id})
    if not order.get("leave"):
        await watch(call, order, app, emit)


async def watch(call: modal.FunctionCall[Any], order: Mapping[str, Any], app: modal.App | None, emit: Emit) -> None:
    """Report a call that runs: progress, output of containers, outcome.

    Raises:
        ModalbatchError: its end cannot be known.
    """
    run_id = order["request"]["run_id"]
    asides: list[Coroutine[Any, Any, None]] = [_tell_progress(order["name"], order.get("environment"), run_id, emit)]
    if app is not None and order.get("verbose") and hasattr(app, "logs"):
        asides.append(_tell_logs(app, emit))
    tasks = [asyncio.create_task(aside) for aside in asides]
    try:
        outcome = json.loads(await call.get.aio())
        while outcome["status"] == "handed_over":
            import modal

            outcome = json.loads(await modal.FunctionCall.from_id(outcome["call_id"]).get.aio())
        if len(tasks) > 1:
            await asyncio.wait(tasks[1:], timeout=LAST_WORDS_S)
    except Exception as error:
        await _tell_last_words(app, emit)
        raise lost(error) from error
    finally:
        for task in tasks:
            task.cancel()
    if outcome["error"] and not order.get("verbose"):
        await _tell_last_words(app, emit)
    emit({"event": "outcome", **outcome})


async def _tell_progress(name: str, environment: str | None, run_id: str, emit: Emit) -> None:
    import modal

    entries = modal.Dict.from_name(f"modalbatch-{name}", create_if_missing=True, environment_name=environment)
    told = None
    # Progress is a courtesy: an error here ends it and nothing else.
    with contextlib.suppress(Exception):
        while True:
            text = await entries.get.aio(run_id, None)
            if text and text != told:
                told = text
                emit({"event": "progress", **json.loads(text)})
            await asyncio.sleep(POLL_S)


async def _tell_once(order: Json, emit: Emit) -> None:
    if progress := await _progress_of(order):
        emit({"event": "progress", **progress})


async def _progress_of(order: Json) -> Json:
    """What the run's driver told last; empty where it told nothing."""
    import modal

    name = f"modalbatch-{order['name']}"
    try:
        entries = modal.Dict.from_name(name, create_if_missing=True, environment_name=order["environment"])
        text = await entries.get.aio(order["request"]["run_id"], None)
    except Exception as error:
        raise trouble(error) from error
    progress: Json = json.loads(text) if text else {}
    return progress


async def _tell_logs(app: modal.App, emit: Emit) -> None:
    lines = LogLines(emit)
    try:
        with contextlib.suppress(Exception):  # as with progress
            async for entry in app.logs.stream.aio():
                lines.add(entry)
    finally:
        lines.close()


async def _tell_last_words(app: modal.App | None, emit: Emit) -> None:
    lines = LogLines(emit)
    with contextlib.suppress(Exception):  # as with progress; before modal 1.5.4 apps have no logs
        if app is not None:
            async for entry in app.logs.tail.aio(TAIL_LINES):
                lines.add(entry)
    lines.close()


class LogLines:
    """Whole lines out of pieces of output, for each container."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._open: dict[tuple[str, str], str] = {}

    def add(self, entry: Any) -> None:
        """A `modal.types.LogEntry`."""
        key = entry.source, (entry.context_ids or [""])[-1]
        *lines, rest = (self._open.pop(key, "") + entry.message).split("\n")
        for line in lines:
            self._tell(key, line)
        if rest:
            self._open[key] = rest

    def close(self) -> None:
        """Tell lines that never ended."""
        for key, rest in self._open.items():
            self._tell(key, rest)
        self._open.clear()

    def _tell(self, key: tuple[str, str], line: str) -> None:
        self._emit({"event": "log", "source": key[0], "container": key[1], "text": line})


def trouble(error: Exception) -> ModalbatchError:
    """What a person should know of an exception before the run was started."""
    from modal import exception as known

    said = _sentence(error)
    if isinstance(error, ModalbatchError):
        return error
    if isinstance(error, known.AuthError):
        return UsageError(f"Modal refuses the token: {said}", hint="`modal setup` makes a new one, or --engine local")
    if isinstance(error, (known.ConnectionError, known.ServiceError, known.TimeoutError, OSError)):
        return UnavailableError(f"the engine cannot be reached: {said}", hint=AGAIN)
    if isinstance(error, known.Error):
        return UsageError(f"the app does not start: {said}")
    return InternalError(f"the app does not start: {type(error).__name__}: {said}", hint="please report it")


def lost(error: Exception) -> ModalbatchError:
    """What a person should know of an exception while the run was followed."""
    from modal import exception as known

    if isinstance(error, (known.Error, OSError)):
        return UnavailableError(f"the connection to the run is lost: {_sentence(error)}", hint=AGAIN)
    return InternalError(f"the driver failed: {type(error).__name__}: {_sentence(error)}", hint="please report it")


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def load_app(path: Path) -> Any:
    """The module of a generated app, by path, as `modal run` loads it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


async def serve(orders: AsyncIterator[Json], emit: Emit) -> None:
    """Carry out the orders of one command; a failure is the last event."""
    try:
        order = await _next(orders)
        if order is None:
            return
        if order["do"] == "attach":
            await _until_left(orders, _attach(order, emit))
        elif order["do"] == "progress":
            await _tell_once(order, emit)
        else:
            await _open(order, orders, emit)
    except ModalbatchError as error:
        emit({"event": "error", "exit_code": error.exit_code, **error.to_json()})


async def _attach(order: Json, emit: Emit) -> None:
    """Watch a run that somebody else started; without its call's id only its progress can be told."""
    import modal

    # The driver that is alive now, which may be another than the one that was started.
    call_id = (await _progress_of(order)).get("call_id") or order["call_id"]
    if call_id:
        await watch(modal.FunctionCall.from_id(call_id), order, None, emit)
    else:
        await _tell_progress(order["name"], order.get("environment"), order["request"]["run_id"], emit)


async def _open(order: Json, orders: AsyncIterator[Json], emit: Emit) -> None:
    failure: ModalbatchError | None = None
    try:
        module = load_app(Path(order["app"]))
        app = module.app
        async with app.run(detach=order["detach"], environment_name=order["environment"]):
            emit({"event": "opened", "app_id": app.app_id, "url": app.get_dashboard_url()})
            try:
                todo = await _next(orders)
                if todo is not None and todo["do"] == "drive":
                    await _until_left(orders, conduct(module.drive, todo, app, emit))
                elif todo is not None and todo["do"] == "inspect":
                    await _until_left(orders, _ask(module.inspect, todo, emit))
                elif todo is not None and todo["do"] == "rehearse":
                    await _until_left(orders, _rehearse(module.Worker, todo["text"], emit))
            except ModalbatchError as error:
                failure = error
    except Exception as error:
        # What went wrong with the run says more than what went wrong with leaving it.
        raise failure or trouble(error) from error
    if failure is not None:
        raise failure


async def _ask(inspect: modal.Function[..., Any, Any], order: Json, emit: Emit) -> None:
    try:
        answer = json.loads(await inspect.remote.aio(encode(order["request"])))
    except Exception as error:
        raise trouble(error) from error
    emit({"event": "answer", "answer": answer})


async def _rehearse(worker: Any, text: str, emit: Emit) -> None:
    """Have a worker answer one text that is no split, and tell the answer."""
    try:
        emit({"event": "answer", **json.loads(await worker().process.remote.aio(text))})
    except Exception as error:
        raise trouble(error) from error


async def _until_left(orders: AsyncIterator[Json], work: Coroutine[Any, Any, None]) -> None:
    """Do the work, unless the command leaves or dies first."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_next(orders))
    await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        leaving.cancel()
        working.result()
    working.cancel()


async def _next(orders: AsyncIterator[Json]) -> Json | None:
    """The next order; None when the command leaves or is gone."""
    async for order in orders:
        return None if order["do"] == "leave" else order
    return None


async def _orders() -> AsyncIterator[Json]:
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def main() -> None:
    """The child process: orders on stdin, events on what was stdout."""
    _end_with_command()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what else prints here is no event

    def emit(event: Json) -> None:
        events.write(encode(event) + "\n")
        events.flush()

    import modal  # noqa: F401  # while the engine starts

    with contextlib.suppress(BrokenPipeError):
        asyncio.run(serve(_orders(), emit))
    # The run is over and told: tearing down Modal's client would cost a third of a second and change nothing.
    sys.stderr.flush()
    os._exit(0)


def _end_with_command() -> None:
    """Have the kernel end us when the command is killed; elsewhere than on Linux the end of stdin does it."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()
