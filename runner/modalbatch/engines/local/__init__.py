"""The local engine: a server that speaks Modal's protocol and runs containers as local processes. Runs on: laptop.

Knows nothing of specs, jobs or splits: any batch app runs on it. `main.py` is the engine process; what is offered here
is the side of a command that uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalbatch.engines.local.lease import LocalEngine, run_command

__all__ = ["LocalEngine", "run_command"]


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first used (PEP 562)."""
    if name in __all__:
        from modalbatch.engines.local import lease

        return getattr(lease, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
