"""What the engine says in the protocol of the modal that is installed."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

from modalbatch.engines.local import services
from modalbatch.engines.local.wire import newer_message, proto


def _handlers():
    """Every handler of an RPC that this version of the protocol has."""
    known = {method.name for method in proto.DESCRIPTOR.services_by_name["ModalClient"].methods}
    for path in Path(services.__file__).parent.glob("[a-z]*.py"):
        module = importlib.import_module(f"{services.__name__}.{path.stem}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__:
                yield from (handler for name, handler in vars(kind).items() if name in known)


def test_every_message_that_a_handler_names_exists():
    handlers = list(_handlers())
    assert len(handlers) > 80
    missing = {
        (handler.__qualname__, name)
        for handler in handlers
        for name in re.findall(r"\bproto\.([A-Z]\w+)", inspect.getsource(handler))
        if not hasattr(proto, name)
    }
    assert missing == set()


def test_a_message_that_a_version_lacks_is_left_out():
    assert newer_message("NothingLikeThis", app_id="ap-1") is None
    assert newer_message("AppHeartbeatRequest", app_id="ap-1", no_such_field=1).app_id == "ap-1"
