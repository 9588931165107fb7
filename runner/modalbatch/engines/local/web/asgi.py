"""HTTP as Modal's runtime speaks it: ASGI scopes and messages. Runs on: laptop.

Owns the form of a web function's input (a pickled scope, which is what the runtime takes apart) and of the messages
in both directions. Pure of time, processes and network.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from modalbatch.engines.local.wire import Message, proto

if TYPE_CHECKING:
    from aiohttp import web

#: Headers that belong to one connection, which ours are not the same as the app's.
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
#: The query's name for a call whose response took too long, in Modal's words.
CALL_ID = "__modal_function_call_id"

Headers = Iterable[tuple[bytes, bytes]]
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
#: How a class parameter of each type is read: (the beginning of its fields' names, from text).
_PARAMETERS: dict[int, tuple[str, Callable[[str], object]]] = {
    proto.PARAM_TYPE_STRING: ("string", str),
    proto.PARAM_TYPE_INT: ("int", int),
    proto.PARAM_TYPE_BOOL: ("bool", lambda text: _BOOLEANS[text.lower()]),
    proto.PARAM_TYPE_BYTES: ("bytes", str.encode),
}


def request_scope(kind: str, request: web.BaseRequest) -> dict[str, Any]:
    """The scope of a request as it came."""
    return scope(
        kind,
        method=request.method,
        target=request.raw_path,
        headers=request.raw_headers,
        client=request.transport.get_extra_info("peername")[:2] if request.transport else ("", 0),
    )


def scope(kind: str, *, method: str, target: str, headers: Headers, client: tuple[str, int]) -> dict[str, Any]:
    """The scope of a request or, with the kind `websocket`, of a connection."""
    path, query = split_target(target)
    lowered = [(name.lower(), value) for name, value in headers]
    # Without `http.response.trailers`, which Modal offers: the server here cannot send them.
    common = {
        "type": kind,
        "http_version": "1.1",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": unquote(path),
        "query_string": query.encode(),
        "headers": lowered,
        "client": client,
    }
    if kind != "websocket":
        return common | {"method": method, "extensions": {}}
    said = b",".join(value for name, value in lowered if name == b"sec-websocket-protocol")
    return common | {"subprotocols": [item.strip() for item in said.decode("latin-1").split(",") if item.strip()]}


def web_input(scope: dict[str, Any], method_name: str) -> Message:
    """The input that calls a web function with a scope."""
    return proto.FunctionInput(
        args=pickle.dumps(((scope,), {}), protocol=4), data_format=proto.DATA_FORMAT_PICKLE, method_name=method_name
    )


def split_target(target: str) -> tuple[str, str]:
    """Path and query of a request line's target, as they were sent."""
    if not target.startswith("/"):  # a proxy's form, with scheme and host
        target = urlsplit(target)._replace(scheme="", netloc="").geturl() or "/"
    path, _, query = target.partition("?")
    return path, query


def result_target(target: str, call_id: str) -> str:
    """Where the response of a call is fetched that has taken too long."""
    path, query = split_target(target)
    kept = [part for part in query.split("&") if part and not part.startswith(f"{CALL_ID}=")]
    return f"{path}?{'&'.join([*kept, f'{CALL_ID}={call_id}'])}"


def body_message(body: bytes, *, more: bool) -> Message:
    """A part of a request's body."""
    return proto.Asgi(http_request=proto.Asgi.HttpRequest(body=body, more_body=more))


def chunk(index: int, message: Message) -> Message:
    """A message as an element of a stream of data."""
    return proto.DataChunk(data_format=proto.DATA_FORMAT_ASGI, data=message.SerializeToString(), index=index)


def response_headers(flat: Iterable[bytes]) -> list[tuple[str, str]]:
    """Names and values that an app answers with, without those that only its own connection has."""
    words = [word.decode("latin-1") for word in flat]
    pairs = zip(words[::2], words[1::2], strict=False)
    return [(name, value) for name, value in pairs if name.lower() not in _HOP_BY_HOP]


def class_parameters(schema: Iterable[Message], query: dict[str, str]) -> bytes:
    """The parameters of a class, serialised, as a request's query gives them. Raises: ValueError."""
    values = [_parameter(spec, query.get(spec.name)) for spec in schema]
    return bytes(proto.ClassParameterSet(parameters=values).SerializeToString(deterministic=True))


def _parameter(spec: Message, said: str | None) -> Message:
    kind = spec.full_type.base_type or spec.type
    if kind not in _PARAMETERS:
        raise ValueError(f"parameter {spec.name} of the class has a type that no query can give")
    if said is None and not spec.has_default:
        raise ValueError(f"parameter {spec.name} of the class is missing in the query")
    word, read = _PARAMETERS[kind]
    try:
        value = getattr(spec, f"{word}_default") if said is None else read(said)
    except (KeyError, ValueError):
        raise ValueError(f"parameter {spec.name} of the class cannot be {said!r}") from None
    return proto.ClassParameterValue(name=spec.name, type=kind, **{f"{word}_value": value})
