"""RPCs about calls: the side of whoever calls a function. Runs on: laptop.

Owns the protocol of retries (the client re-sends inputs of calls that it waits for, the engine those of spawned ones)
and of acknowledgement (a map's outputs are kept until the next poll confirms them).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from modalbatch.engines.local.call import Call
from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.wire import (
    LONG_POLL_S,
    TERMINATED,
    Message,
    Peer,
    Result,
    message,
    not_found,
    proto,
    read_token,
    refused,
    unsupported,
    write_token,
)

#: Inputs that a map may have in flight; Modal's own number.
MAX_OUTSTANDING = 1000
#: Fewer open inputs than this are answered at once: there is nothing to gather.
_MIN_TO_LINGER = 4
_LINGER_UNTIL = 50


class CallService:
    """Calls: start, feed, fetch, retry, cancel."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def FunctionMap(self, request: Message, peer: Peer) -> Message:
        """Starts a call, with its inputs if there are few."""
        function = self._engine.function(request.function_id)
        if not function.app.is_live:
            raise refused(f"app `{function.app.name}` has stopped")
        if function.definition.function_type == proto.Function.FUNCTION_TYPE_GENERATOR:
            raise unsupported(f"calling a generator function (`{function.name}`)")
        call = self._engine.add_call(
            function,
            is_sync=request.function_call_invocation_type != proto.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
            is_map=request.function_call_type == proto.FUNCTION_CALL_TYPE_MAP,
        )
        return message(
            proto.FunctionMapResponse,
            function_call_id=call.id,
            function_call_jwt=call.id,
            pipelined_inputs=self._add(call, request.pipelined_inputs),
            retry_policy=function.definition.retry_policy,
            sync_client_retries_enabled=True,
            max_inputs_outstanding=MAX_OUTSTANDING,
        )

    async def FunctionPutInputs(self, request: Message, peer: Peer) -> Message:
        """More inputs of a map."""
        call = self._engine.call(request.function_call_id)
        return proto.FunctionPutInputsResponse(inputs=self._add(call, request.inputs))

    async def FunctionFinishInputs(self, request: Message, peer: Peer) -> None:
        """The feed of a map has ended; nothing depends on it."""

    def _add(self, call: Call, items: Iterable[Message]) -> list[Message]:
        added = [call.add(item.idx, item.input) for item in items]
        if added and not call.is_sync:
            self._engine.journal.add_inputs(call, added)
        for item in added:
            call.function.pool.add(item)
        # Retried inputs need real tokens (below); here the id does, and every poll carries them all.
        kind = proto.FunctionPutInputsResponseItem
        return [kind(idx=item.idx, input_id=item.id, input_jwt=item.id) for item in added]

    async def FunctionRetryInputs(self, request: Message, peer: Peer) -> Message:
        """Runs failed inputs again, as the client's retry policy asks."""
        call = self._engine.call(request.function_call_jwt)
        tokens = []
        for item in request.inputs:
            is_token = item.input_jwt.count(".") == 2
            input_id = read_token(item.input_jwt)["id"] if is_token else item.input_jwt
            idx = int(input_id.rsplit(":", 1)[1])
            again = call.inputs.get(input_id) or call.add(idx, item.input)
            again.retry = item.retry_count or again.retry + 1
            call.forget_last()
            call.function.pool.add(again)
            tokens.append(write_token(idx=idx, id=input_id))
        return proto.FunctionRetryInputsResponse(input_jwts=tokens)

    async def FunctionGetOutputs(self, request: Message, peer: Peer) -> Message:
        """Outputs of a call, as soon as there are any."""
        call = self._engine.find_call(request.function_call_id)
        end = time.monotonic() + min(request.timeout, LONG_POLL_S)
        if call is None or not call.is_sync:
            return await self._kept_outputs(request, call, end)
        call.acknowledge(int(request.last_entry_id.split("-")[0] or 0))
        outputs, number = call.due()
        while not outputs and (left_s := end - time.monotonic()) > 0:
            await call.wait(left_s)
            outputs, number = call.due()
        linger_s = self._engine.config.linger_s
        if outputs and linger_s and call.n_due < _LINGER_UNTIL and len(call.inputs) > _MIN_TO_LINGER:
            # One answer for many outputs: three times less work for everybody.
            await asyncio.sleep(linger_s)
            outputs, number = call.due()
        if request.clear_on_success and not call.inputs:
            self._engine.drop_call(call)
        elif request.clear_on_success and call.is_map:  # the caller has left its loop
            call.is_cancelled = True
            call.function.pool.cancel(call, kill=False)
        last = f"{number}-0" if number else request.last_entry_id
        return proto.FunctionGetOutputsResponse(
            outputs=outputs, num_unfinished_inputs=len(call.inputs), last_entry_id=last
        )

    async def _kept_outputs(self, request: Message, call: Call | None, end: float) -> Message:
        """Outputs of a spawned call, from the store; what an engine that is gone left open counts as terminated."""
        call_id = request.function_call_id
        ranged = request.HasField("start_idx")
        first, last = (request.start_idx, request.end_idx) if ranged else (0, 1 << 30)
        if call is None:
            n_inputs = self._kept_call(call_id)["n_inputs"]
            outputs = self._load(call_id, first, last)
            found = {output.idx for output in outputs}
            lost = Result(status=TERMINATED, exception="the local engine was stopped while this ran")
            for idx in range(first, min(last, n_inputs - 1) + 1):
                if idx not in found:
                    outputs.append(proto.FunctionGetOutputsItem(idx=idx, result=lost))
            return proto.FunctionGetOutputsResponse(outputs=outputs)
        outputs = self._load(call_id, first, last)
        while not outputs and (left_s := end - time.monotonic()) > 0:
            await call.wait(left_s)
            outputs = self._load(call_id, first, last)
        return proto.FunctionGetOutputsResponse(outputs=outputs, num_unfinished_inputs=len(call.inputs))

    def _load(self, call_id: str, first: int, last: int) -> list[Message]:
        rows = self._engine.store.outputs(call_id, first, last)
        return [proto.FunctionGetOutputsItem.FromString(row) for row in rows]

    def _kept_call(self, call_id: str) -> dict[str, Any]:
        facts = self._engine.journal.facts(call_id)
        if facts is None:
            raise not_found(f"function call {call_id} is not known here")
        return facts

    async def FunctionCallFromId(self, request: Message, peer: Peer) -> Message:
        """What is known of a spawned call."""
        facts = self._kept_call(request.function_call_id)
        metadata = message(proto.FunctionCallHandleMetadata, app_id=facts["app_id"], function_id=facts["function_id"])
        return message(
            proto.FunctionCallFromIdResponse,
            function_call_id=request.function_call_id,
            num_inputs=facts["n_inputs"],
            metadata=metadata,
        )

    async def FunctionCallCancel(self, request: Message, peer: Peer) -> None:
        """Ends a call without retries; one that is over stays as it is."""
        call = self._engine.find_call(request.function_call_id)
        if call is None:
            self._kept_call(request.function_call_id)
            return
        call.is_cancelled = True
        self._engine.journal.cancel(call)
        call.function.pool.cancel(call, kill=request.terminate_containers)
