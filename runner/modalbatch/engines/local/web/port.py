"""Which port a web function has. Runs on: laptop.

Owns the promise that a URL stays: the port follows from the label that Modal would put into the host name, so that it
is the same in every engine, unless somebody else has it. Nothing needs to be kept.
"""

from __future__ import annotations

import hashlib
import socket

HOST = "127.0.0.1"
#: Ports below those that Linux gives to outgoing connections.
_FIRST, _COUNT = 20_000, 10_000
_TRIES = 16


def label(*, requested: str, app: str, function: str, method: str, is_ephemeral: bool) -> str:
    """A name that is the same whenever the same function is served; `method` is empty where there is no class."""
    name = requested or "-".join(filter(None, (app, function.removesuffix(".*"), method)))
    return f"{name}-dev" if is_ephemeral else name


def preferred_ports(environment: str, label: str) -> list[int]:
    """Ports to try, the best one first; any free one will do after them."""
    digest = hashlib.sha256(f"{environment}/{label}".encode()).digest()
    start = int.from_bytes(digest[:8], "big")
    return [_FIRST + (start + i) % _COUNT for i in range(_TRIES)] + [0]


def listen(ports: list[int]) -> socket.socket:
    """A socket that takes connections on the first port that is free."""
    for port in ports[:-1]:
        try:
            return socket.create_server((HOST, port), backlog=100)
        except OSError:
            continue
    return socket.create_server((HOST, ports[-1]), backlog=100)
