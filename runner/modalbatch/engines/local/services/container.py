"""RPCs of a container about itself. Runs on: laptop.

Owns the one trick of the protocol here: a container that was started ahead of calls gets no answer to its first
request until there is one, so it stands ready without having touched user code.
"""

from __future__ import annotations

import contextlib

from grpclib import GRPCError

from modalbatch.engines.local.containers.container import Container
from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.wire import Message, Peer, proto

#: The runtime polls for cancellations for 15 s.
_HEARTBEAT_S = 12.0
#: It waits 10 s for an answer about concurrency.
_CONCURRENCY_S = 8.0


class ContainerService:
    """Hello, inputs, outputs, heartbeat, the end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _container(self, peer: Peer) -> Container:
        return self._engine.container(peer.container_id)

    async def ContainerHello(self, request: Message, peer: Peer) -> None:
        """Says hello back when there is work."""
        container = self._container(peer)
        await container.released.wait()
        if container.was_held and container.remount is not None:
            await self._engine.views.renew(container.id, container.remount)

    async def ContainerHeartbeat(self, request: Message, peer: Peer) -> Message:
        """Inputs to interrupt, as soon as there are any; the runtime asks again at most 3 s after an empty answer."""
        container = self._container(peer)
        container.expect_word(_HEARTBEAT_S + self._engine.config.silence_s)
        input_ids = await container.cancelled_inputs(_HEARTBEAT_S)
        if not input_ids:
            return proto.ContainerHeartbeatResponse()
        return proto.ContainerHeartbeatResponse(cancel_input_event=proto.CancelInputEvent(input_ids=input_ids))

    async def FunctionGetInputs(self, request: Message, peer: Peer) -> Message:
        """Inputs to run, or the word to leave."""
        container = self._container(peer)
        if peer.key and container.answered[0] == peer.key:
            return container.answered[1]
        inputs = await container.function.pool.next_inputs(
            container, max(1, request.batch_max_size), request.batch_linger_ms / 1000
        )
        if not inputs:
            return proto.FunctionGetInputsResponse(inputs=[proto.FunctionGetInputsItem(kill_switch=True)])
        kinds = {
            True: proto.FUNCTION_CALL_INVOCATION_TYPE_SYNC,
            False: proto.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
        }
        reply = proto.FunctionGetInputsResponse(
            inputs=[
                proto.FunctionGetInputsItem(
                    input_id=item.id,
                    input=item.data,
                    function_call_id=item.call.id,
                    retry_count=item.retry,
                    function_call_invocation_type=kinds[item.call.is_sync],
                )
                for item in inputs
            ]
        )
        container.answered = (peer.key, reply)
        return reply

    async def FunctionPutOutputs(self, request: Message, peer: Peer) -> None:
        """Takes results."""
        container = self._container(peer)
        if not self._engine.recent.has(peer.key):
            self._engine.recent.keep(peer.key, None)
            for output in request.outputs:
                container.function.pool.put_output(container, output)

    async def FunctionGetDynamicConcurrency(self, request: Message, peer: Peer) -> Message:
        """How many inputs at a time, as soon as that changes: the runtime asks again 3 s after each answer."""
        container = self._container(peer)
        n_inputs = await container.function.pool.burst.concurrency(
            container, request.target_concurrency, request.max_concurrency, _CONCURRENCY_S
        )
        return proto.FunctionGetDynamicConcurrencyResponse(concurrency=n_inputs)

    async def TaskResult(self, request: Message, peer: Peer) -> None:
        """Takes the reason why user code could not be imported or entered."""
        self._container(peer).result = request.result

    async def ContainerStop(self, request: Message, peer: Peer) -> None:
        """Ends a container: after its current inputs if graceful, else now."""
        with contextlib.suppress(GRPCError):  # one that is gone needs no stopping
            container = self._engine.container(request.task_id or peer.container_id)
            if getattr(request, "graceful", False):
                container.is_draining = True
            else:
                self._engine.run(lambda: container.function.pool.stop_container(container))
