"""The gRPC service: from the protocol's descriptor and our handlers to a server. Runs on: laptop.

Owns dispatch, the token check and the promise that a bug answers at once with one readable error. What no handler
knows answers UNIMPLEMENTED by name, so a newer client fails loudly and only where it uses something new.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import grpclib.const
import grpclib.server
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status

from modalbatch.engines.local.faults.fault import Faults
from modalbatch.engines.local.wire import Details, Message, Peer, proto, refused, unsupported
from modalbatch.errors import ModalbatchError

#: `async def Name(self, request, peer) -> reply`, or with a third argument that sends one message of a stream.
Handler = Callable[..., Awaitable[Any]]

_log = logging.getLogger("modalbatch.engine")
_CONTAINER_PREFIX = "ta-"
#: What grpclib and h2 raise in a handler whose caller has left.
_CALLER_LEFT = ("StreamTerminatedError", "StreamClosedError", "ProtocolError")
#: Frames of a bug of ours that a client is shown; the log has them all.
_SHOWN_FRAMES = 3
_ELSEWHERE = "run it on Modal; code can tell where it is: MODALBATCH_LOCAL_ENGINE is set on the local engine only"
#: (beginning of an RPC's name, what people call the feature behind it, what to do); for RPCs that no handler knows.
_FEATURES = (
    ("ContainerExec", "running a command in a container", _ELSEWHERE),
    ("Proxy", "modal.Proxy", _ELSEWHERE),
    ("Sandbox", "modal.Sandbox", _ELSEWHERE),
    ("SharedVolume", "modal.NetworkFileSystem", "use a modal.Volume"),
    ("TunnelStart", "modal.forward", _ELSEWHERE),
    ("", "this part of Modal", _ELSEWHERE),
)


class Service:
    """Every RPC of Modal's service, answered by the first of `parts` that has a method of that name."""

    def __init__(self, parts: Sequence[object], *, token: str, log_path: Path, faults: Faults | None = None) -> None:
        self._parts = parts
        self._faults = faults
        self._token = token
        self._log_path = log_path
        #: Container id and process of each connection: asking the kernel again for every request would show.
        self._peers: WeakKeyDictionary[Any, tuple[str, int]] = WeakKeyDictionary()
        self._server = grpclib.server.Server([self], status_details_codec=Details())

    async def listen(self, path: str | None = None, *, sock: socket.socket | None = None) -> asyncio.AbstractServer:
        """Serves on one more unix socket: a new path, or a socket that is bound already."""
        loop = asyncio.get_running_loop()
        # One table of methods for all sockets: building it takes longer than starting a container should.
        return await loop.create_unix_server(self._server._protocol_factory, path, sock=sock, backlog=100)

    def __mapping__(self) -> dict[str, Any]:
        """The table that grpclib serves from."""
        service = proto.DESCRIPTOR.services_by_name["ModalClient"]
        return {f"/{service.full_name}/{method.name}": self._entry(method) for method in service.methods}

    def _entry(self, method: Any) -> Any:
        kinds = grpclib.const.Cardinality
        kind = {
            (False, False): kinds.UNARY_UNARY,
            (False, True): kinds.UNARY_STREAM,
            (True, False): kinds.STREAM_UNARY,
            (True, True): kinds.STREAM_STREAM,
        }[method.client_streaming, method.server_streaming]
        request_class = getattr(proto, method.input_type.name, Empty)
        reply_class = getattr(proto, method.output_type.name, Empty)
        handler = next((getattr(part, method.name) for part in self._parts if hasattr(part, method.name)), None)
        return grpclib.const.Handler(
            self._wrap(method.name, handler, method.server_streaming, reply_class), kind, request_class, reply_class
        )

    def _wrap(self, name: str, handler: Handler | None, streams: bool, reply_class: Any) -> Any:
        async def serve(stream: Any) -> None:
            request = await stream.recv_message()
            peer = self._peer(stream)
            if handler is None:
                raise _unknown(name)
            if not peer.container_id and stream.metadata.get("x-modal-token-secret") != self._token:
                raise GRPCError(Status.UNAUTHENTICATED, "this engine belongs to another command: its token differs")
            try:
                if streams:
                    await handler(request, peer, stream.send_message)
                else:
                    reply: Message = await handler(request, peer)
                    if self._faults is not None:
                        self._check_loss(name, request, reply, stream.metadata)
                    await stream.send_message(reply_class() if reply is None else reply)
            except (GRPCError, ConnectionError, asyncio.CancelledError):
                raise
            except ModalbatchError as error:
                raise refused(error.render().removeprefix("error: ")) from error
            except Exception as error:
                if type(error).__name__ in _CALLER_LEFT:
                    raise
                _log.exception("%s failed", name)
                # INTERNAL would be retried eight times in silence.
                where = "".join(traceback.format_tb(error.__traceback__)[-_SHOWN_FRAMES:])
                raise refused(
                    f"modalbatch's local engine failed in {name}: {error!r}\n{where}hint: see {self._log_path}"
                ) from error

        return serve

    def _peer(self, stream: Any) -> Peer:
        transport = stream.peer._transport
        known = self._peers.get(transport)
        if known is None:
            known = self._peers[transport] = _other_end(transport)
        return Peer(container_id=known[0], pid=known[1], key=stream.metadata.get("x-idempotency-key", ""))

    def _check_loss(self, name: str, request: Message, reply: Message, metadata: Any) -> None:
        """Raises: UNAVAILABLE when the fault that loses replies hits this one."""
        assert self._faults is not None
        if self._faults.loses(name, request, reply, int(metadata.get("x-retry-attempt", 0))):
            raise GRPCError(Status.UNAVAILABLE, "chaos: the reply was lost")


def _unknown(name: str) -> GRPCError:
    """The answer to an RPC that no handler knows, in a user's words."""
    _, feature, hint = next(row for row in _FEATURES if name.startswith(row[0]))
    return unsupported(f"{feature} ({name})", hint)


def _other_end(transport: Any) -> tuple[str, int]:
    """The container whose own socket it is, empty for a client, and the process."""
    name = Path(str(transport.get_extra_info("sockname"))).name
    credentials = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid = struct.unpack("iii", credentials)[0]
    return (name if name.startswith(_CONTAINER_PREFIX) else ""), pid
