"""Modal's protocol as plain helpers: messages, retry tokens, errors. Runs on: laptop.

Owns tolerance between versions: `message` drops fields that the installed modal does not know. Imports the protocol's
messages (`modal_proto`) but never `modal` itself, which would triple the engine's start-up time.
"""

from __future__ import annotations

import base64
import json
import secrets
import string
from dataclasses import dataclass
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import api_pb2

#: A protobuf message; the generated classes are not typed here.
Message = Any

#: The protocol's classes, untyped here: fields come and go between versions.
proto: Any = api_pb2
Result: Any = api_pb2.GenericResult
SUCCESS = Result.GENERIC_STATUS_SUCCESS
FAILURE = Result.GENERIC_STATUS_FAILURE
TERMINATED = Result.GENERIC_STATUS_TERMINATED
TIMEOUT = Result.GENERIC_STATUS_TIMEOUT

#: Seconds that a long poll is held; clients ask for 55 s at most.
LONG_POLL_S = 50.0

#: The image builder whose layers `image.py` reads; known to every supported client.
BUILDER_VERSION = "2025.06"

_ID_LENGTH = 22
_ID_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who sends a request."""

    #: The container whose own socket was used; empty for a client.
    container_id: str
    #: Process id of the sender as the engine sees it; 0 when unknown.
    pid: int
    #: The same when a client repeats a request whose reply it did not get; empty when it never does.
    key: str = ""


class Details:
    """The details of an error, as the client reads them."""

    def encode(self, status: Status, text: str | None, details: Any) -> bytes:
        """The header's content."""
        packed = proto.RPCStatus(code=status.value, message=text or "")
        for detail in details:
            packed.details.add().Pack(detail, type_url_prefix="type.modal.com/")
        return bytes(packed.SerializeToString())


def message(kind: Any, **fields: Any) -> Message:
    """A message of a class, without the fields that this version of the protocol lacks."""
    known = kind.DESCRIPTOR.fields_by_name
    return kind(**{name: value for name, value in fields.items() if name in known})


def newer_message(name: str, **fields: Any) -> Message | None:
    """A message of a class that some supported versions of the protocol lack; None there."""
    kind = getattr(proto, name, None)
    return message(kind, **fields) if kind is not None else None


def creation(created_at: float) -> Message:
    """When an object was made. Clients ask for the next page of a listing by it."""
    return message(proto.CreationInfo, created_at=created_at, created_by="you")


def mint_id(prefix: str) -> str:
    """A new object id of Modal's form; the client's command line tells ids from names by their 22 characters."""
    return f"{prefix}-" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))


def write_token(**payload: Any) -> str:
    """An unsigned JWT: the map client reads `idx` out of the tokens of retried inputs."""
    parts = ({"alg": "none"}, payload)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


def read_token(token: str) -> dict[str, Any]:
    """The payload of `write_token`'s result."""
    payload: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return payload


def not_found(text: str) -> GRPCError:
    """An error that the client turns into `NotFoundError`."""
    return GRPCError(Status.NOT_FOUND, text)


def already_exists(text: str) -> GRPCError:
    """An error that the client turns into `AlreadyExistsError`."""
    return GRPCError(Status.ALREADY_EXISTS, text)


def invalid(text: str) -> GRPCError:
    """An error that the client turns into `InvalidError`."""
    return GRPCError(Status.INVALID_ARGUMENT, text)


def refused(text: str) -> GRPCError:
    """An error that the client reports at once and never retries."""
    return GRPCError(Status.FAILED_PRECONDITION, text)


def exhausted(text: str, wait_s: float = 0.0) -> GRPCError:
    """An error about a limit; with a time to wait the client tries again after it, whatever it asked for."""
    details = [proto.RPCRetryPolicy(retry_after_secs=wait_s)] if wait_s and hasattr(proto, "RPCRetryPolicy") else None
    return GRPCError(Status.RESOURCE_EXHAUSTED, text, details)


def unsupported(what: str, hint: str = "") -> GRPCError:
    """The answer to everything that the engine does not do; a client reports it at once."""
    text = f"{what} is not supported by modalbatch's local engine"
    return GRPCError(Status.UNIMPLEMENTED, f"{text}\nhint: {hint}" if hint else text)


def failure(text: str, *, status: int = FAILURE, exit_code: int = 0) -> Message:
    """A result that the client raises as an exception with this text."""
    return Result(status=status, exception=text, exitcode=exit_code)
