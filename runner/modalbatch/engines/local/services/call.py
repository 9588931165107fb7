"""RPCs about calls: the side of whoever calls a function. Runs on: laptop.

Owns the protocol of retries (the client re-sends inputs of calls that it waits for, the engine those of spawned ones)
and of acknowledgement (a map's outputs are kept until the next poll confirms them).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from modalbatch.engines.local.calls.call import Call, id_of_input
from modalbatch.engines.local.calls.limit import MAX_OUTSTANDING
from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.wire import (
    LONG_POLL_S,
    SUCCESS,
    TERMINATED,
    TIMEOUT,
    Message,
    Peer,
    Result,
    message,
    newer_message,
    not_found,
    proto,
    read_token,
    refused,
    write_token,
)

#: Fewer open inputs than this are answered at once: there is nothing to gather.
_MIN_TO_LINGER = 4
_LINGER_UNTIL = 50
#: Seconds in which a caller that broke off a request may come back.
_RETURN_S = 1.0
#: The status of an input that has no result.
_PENDING = Result.GENERIC_STATUS_UNSPECIFIED
#: What the client asks for when its caller has set no time limit.
_NO_LIMIT_S = 55


class CallService:
    """Calls: start, feed, fetch, retry, cancel."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def FunctionMap(self, request: Message, peer: Peer) -> Message:
        """Starts a call, with its inputs if there are few."""
        if self._engine.recent.has(peer.key):
            return self._engine.recent.reply(peer.key)
        function = self._engine.function(request.function_id)
        if not function.app.is_live:
            raise refused(f"app `{function.app.name}` has stopped")
        is_sync = request.function_call_invocation_type != proto.FUNCTION_CALL_INVOCATION_TYPE_ASYNC
        function.pool.gate.admit(request.pipelined_inputs, is_sync=is_sync)
        call = self._engine.calls.add(
            function,
            is_sync=is_sync,
            is_map=request.function_call_type == proto.FUNCTION_CALL_TYPE_MAP,
        )
        reply = message(
            proto.FunctionMapResponse,
            function_call_id=call.id,
            function_call_jwt=call.id,
            pipelined_inputs=self._add(call, request.pipelined_inputs),
            retry_policy=function.definition.retry_policy,
            sync_client_retries_enabled=True,
            max_inputs_outstanding=MAX_OUTSTANDING,
        )
        return self._engine.recent.keep(peer.key, reply)

    async def FunctionPutInputs(self, request: Message, peer: Peer) -> Message:
        """More inputs of a map."""
        if self._engine.recent.has(peer.key):
            return self._engine.recent.reply(peer.key)
        call = self._engine.calls.get(request.function_call_id)
        with self._engine.calls.callers.hears(call):
            call.function.pool.gate.admit(request.inputs, is_sync=call.is_sync)
        reply = proto.FunctionPutInputsResponse(inputs=self._add(call, request.inputs))
        return self._engine.recent.keep(peer.key, reply)

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
        if self._engine.recent.has(peer.key):
            return self._engine.recent.reply(peer.key)
        call = self._engine.calls.get(request.function_call_jwt)
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
        return self._engine.recent.keep(peer.key, proto.FunctionRetryInputsResponse(input_jwts=tokens))

    async def FunctionGetOutputs(self, request: Message, peer: Peer) -> Message:
        """Outputs of a call, as soon as there are any."""
        if request.clear_on_success and self._engine.recent.has(peer.key):
            return self._engine.recent.reply(peer.key)
        call = self._engine.calls.find(request.function_call_id)
        end = time.monotonic() + min(request.timeout, LONG_POLL_S)
        if call is None or not call.is_sync:
            return await self._kept_outputs(request, call, end)
        with self._engine.calls.callers.hears(call):
            return await self._outputs(request, call, peer, end)

    async def _outputs(self, request: Message, call: Call, peer: Peer, end: float) -> Message:
        """Outputs of a call whose caller waits."""
        call.acknowledge(int(request.last_entry_id.split("-")[0] or 0))
        outputs, number = call.due()
        call.n_polls += 1
        try:
            while not outputs and (left_s := end - time.monotonic()) > 0:
                await call.wait(left_s)
                outputs, number = call.due()
        except asyncio.CancelledError:
            if call.stream is not None:
                asyncio.get_running_loop().call_later(_RETURN_S, self._hang_up, call, call.n_polls)
            raise
        linger_s = self._engine.config.linger_s
        if outputs and linger_s and call.n_due < _LINGER_UNTIL and len(call.inputs) > _MIN_TO_LINGER:
            # One answer for many outputs: three times less work for everybody.
            await asyncio.sleep(linger_s)
            outputs, number = call.due()
        if request.clear_on_success and not call.inputs and not call.is_held_back:
            self._engine.calls.drop(call)
        elif request.clear_on_success and call.is_map:  # the caller has left its loop
            call.is_cancelled = True
            call.function.pool.cancel(call, kill=False)
        last = f"{number}-0" if number else request.last_entry_id
        reply = proto.FunctionGetOutputsResponse(
            outputs=outputs, num_unfinished_inputs=len(call.inputs), last_entry_id=last
        )
        if request.clear_on_success:  # asked again, the call would be gone
            size = sum(len(output.result.data) for output in outputs)
            self._engine.recent.keep(peer.key, reply, size_bytes=size)
        return reply

    def _hang_up(self, call: Call, n_polls: int) -> None:
        """Ends a generator whose caller has left its loop, which the client tells only by giving up its requests."""
        if call.n_polls == n_polls and self._engine.calls.find(call.id) is call:
            call.is_cancelled = True
            call.wake()
            call.function.pool.cancel(call, kill=False)
            self._engine.calls.drop(call)

    async def _kept_outputs(self, request: Message, call: Call | None, end: float) -> Message:
        """Outputs of a spawned call, from the store; what an engine that is gone left open counts as terminated."""
        call_id = request.function_call_id
        ranged = request.HasField("start_idx")
        first, last = (request.start_idx, request.end_idx) if ranged else (0, 1 << 30)
        if call is None:
            facts = self._kept_call(call_id)
            outputs = self._load(call_id, first, last)
            if self._engine.retention.is_expired(facts.get("created_at", 0.0)):
                return await self._remaining(request, outputs)
            found = {output.idx for output in outputs}
            lost = Result(status=TERMINATED, exception="the local engine was stopped while this ran")
            for idx in range(first, min(last, facts["n_inputs"] - 1) + 1):
                if idx not in found:
                    outputs.append(proto.FunctionGetOutputsItem(idx=idx, result=lost))
            return proto.FunctionGetOutputsResponse(outputs=outputs)
        outputs = self._load(call_id, first, last)
        while not outputs and (left_s := end - time.monotonic()) > 0:
            await call.wait(left_s)
            outputs = self._load(call_id, first, last)
        return proto.FunctionGetOutputsResponse(outputs=outputs, num_unfinished_inputs=len(call.inputs))

    async def _remaining(self, request: Message, outputs: list[Message]) -> Message:
        """What is left of an old call. No output and no open input is what the client calls expired, but only when its
        own time limit is over; without one it would ask for ever.
        """
        if not outputs and request.timeout >= _NO_LIMIT_S:
            raise not_found(f"the result of {request.function_call_id} has expired: results are kept for 7 days")
        if not outputs:
            await asyncio.sleep(request.timeout)
        return proto.FunctionGetOutputsResponse(outputs=outputs)

    def _load(self, call_id: str, first: int, last: int) -> list[Message]:
        rows = self._engine.store.outputs(call_id, first, last)
        outputs = [proto.FunctionGetOutputsItem.FromString(row) for row in rows]
        return [output for output in outputs if not self._engine.retention.is_expired(output.output_created_at)]

    def _kept_call(self, call_id: str) -> dict[str, Any]:
        facts = self._engine.journal.facts(call_id)
        if facts is None:
            raise not_found(f"function call {call_id} is not known here")
        return facts

    async def FunctionCallFromId(self, request: Message, peer: Peer) -> Message:
        """What is known of a spawned call."""
        facts = self._kept_call(request.function_call_id)
        metadata = newer_message("FunctionCallHandleMetadata", app_id=facts["app_id"], function_id=facts["function_id"])
        return message(
            proto.FunctionCallFromIdResponse,
            function_call_id=request.function_call_id,
            num_inputs=facts["n_inputs"],
            metadata=metadata,
        )

    async def FunctionCallGetInfo(self, request: Message, peer: Peer) -> Message:
        """How far a spawned call is."""
        inputs = self._inputs(request.function_call_id)

        def total(*statuses: int) -> Message:
            return proto.InputCategoryInfo(total=sum(item.status in statuses for item in inputs))

        ended = (SUCCESS, TERMINATED, TIMEOUT)
        info = message(
            proto.FunctionCallInfo,
            function_call_id=request.function_call_id,
            total_inputs=len(inputs),
            pending_inputs=total(_PENDING),
            succeeded_inputs=total(SUCCESS),
            cancelled_inputs=total(TERMINATED),
            timeout_inputs=total(TIMEOUT),
            failed_inputs=total(*{item.status for item in inputs}.difference(ended, {_PENDING})),
        )
        return message(proto.FunctionCallGetInfoResponse, info=info)

    async def FunctionGetCallGraph(self, request: Message, peer: Peer) -> Message:
        """The inputs of a spawned call; who called it and whom it called is not recorded here."""
        call_id = request.function_call_id
        inputs = self._inputs(call_id)
        function = self._engine.find_function(str(self._kept_call(call_id)["function_id"]))
        call = message(
            proto.FunctionCallCallGraphInfo,
            function_call_id=call_id,
            function_name=function.name if function else "",
            module_name=function.definition.module_name if function else "",
        )
        return proto.FunctionGetCallGraphResponse(inputs=inputs, function_calls=[call])

    def _inputs(self, call_id: str) -> list[Message]:
        """What became of each input of a spawned call."""
        n_inputs = int(str(self._kept_call(call_id)["n_inputs"]))
        lacking = _PENDING if self._engine.calls.find(call_id) else TERMINATED
        found = {output.idx: output for output in self._load(call_id, 0, n_inputs)}
        kind = proto.InputCallGraphInfo
        return [
            kind(
                input_id=id_of_input(call_id, idx),
                function_call_id=call_id,
                status=found[idx].result.status if idx in found else lacking,
                task_id=found[idx].task_id if idx in found else "",
            )
            for idx in range(n_inputs)
        ]

    async def FunctionCallCancel(self, request: Message, peer: Peer) -> None:
        """Ends a call without retries; one that is over stays as it is."""
        call = self._engine.calls.find(request.function_call_id)
        if call is None:
            self._kept_call(request.function_call_id)
            return
        call.is_cancelled = True
        self._engine.journal.cancel(call)
        call.function.pool.cancel(call, kill=request.terminate_containers)
