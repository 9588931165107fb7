"""What meets Modal's limits."""

import asyncio
import json
import os

import modal
from grpclib.client import Channel
from modal_proto import api_grpc, api_pb2

app = modal.App("limited")
events = modal.Queue.from_name("limited-events", create_if_missing=True)
notes = modal.Dict.from_name("limited-notes", create_if_missing=True)


def attempts(name):
    """Counts, across containers, how often something was tried."""
    n = notes.get(name, 0) + 1
    notes[name] = n
    return n


@app.function()
def double(x):
    return 2 * x


@app.function()
def size(x):
    return len(x)


@app.function(max_containers=1)
def hold(name):
    """Waits until it is told to go on, or is interrupted."""
    events.put(f"{name} began")
    try:
        events.get(partition=name)
    except BaseException as error:
        events.put(f"{name}: {type(error).__name__}")
        raise
    return name


@app.function()
def stay(name):
    return hold.local(name)


@app.function()
def crash(name, crashes):
    n = attempts(name)
    if n <= crashes:
        os._exit(7)
    return n


@app.cls()
class Late:
    @modal.enter()
    def open(self):
        if attempts("late") <= 2:
            raise RuntimeError("not yet")

    @modal.method()
    def tries(self):
        return notes["late"]


def outcome(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def _ask(method, request):
    channel = Channel(path=os.environ["MODAL_SERVER_URL"].removeprefix("unix://"))
    try:
        ask = getattr(api_grpc.ModalClientStub(channel), method)
        return await ask(request, metadata={"x-modal-token-secret": os.environ["MODAL_TOKEN_SECRET"]})
    finally:
        channel.close()


def submit(function, n, n_bytes=1, is_sync=True):
    """Sends inputs in one request, as no client would, and asks for no output; the call's id."""
    sync, spawned = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC, api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC
    data = api_pb2.FunctionInput(args=b"x" * n_bytes)
    request = api_pb2.FunctionMapRequest(
        function_id=function.hydrate().object_id,
        function_call_type=api_pb2.FUNCTION_CALL_TYPE_MAP,
        function_call_invocation_type=sync if is_sync else spawned,
        pipelined_inputs=[api_pb2.FunctionPutInputsItem(idx=idx, input=data) for idx in range(n)],
    )
    return asyncio.run(_ask("FunctionMap", request)).function_call_id


def cancel(call_id):
    asyncio.run(_ask("FunctionCallCancel", api_pb2.FunctionCallCancelRequest(function_call_id=call_id)))


@app.local_entrypoint()
def poison():
    """Only inputs that kill their container, in an ephemeral app."""
    outcomes = list(crash.starmap([("poison", 1000)] * 40, return_exceptions=True))
    told = sorted({f"{type(error).__name__}: {error}" for error in outcomes})
    print("RESULT", json.dumps({"told": told, "n": len(outcomes), "attempts": notes["poison"]}))
