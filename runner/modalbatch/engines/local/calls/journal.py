"""What is kept of spawned calls, so that an engine that ends takes none of them along. Runs on: laptop.

Owns the rule: results of every spawned call are kept; inputs only where their function outlives the engine, in a
deployed app, and until their result. Starts nothing: the engine asks for what is open.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from modalbatch.engines.local.calls.call import Call, Input
from modalbatch.engines.local.function import Function
from modalbatch.engines.local.store import Store
from modalbatch.engines.local.wire import Message, proto


class Journal:
    """Spawned calls in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def open_call(self, call: Call) -> None:
        """Keeps what is known of a call."""
        self._store.put("call", call.id, json.dumps(call.facts()).encode())

    def add_inputs(self, call: Call, items: list[Input]) -> None:
        """Keeps more inputs of a call; a client that hears of them may rely on their results."""
        self.open_call(call)
        if call.function.app.deployed_at:
            for item in items:
                self._keep_blob(item.data.args_blob_id)
                self._store.put_input(call.id, item.idx, item.data.SerializeToString())

    def keep_output(self, call: Call, output: Message) -> None:
        """Keeps a result, and no longer what it was made from."""
        self._keep_blob(output.result.data_blob_id)
        done = self._store.input(call.id, output.idx)
        if done is not None:
            self._store.drop(proto.FunctionInput.FromString(done).args_blob_id)
        self._store.put_output(call.id, output.idx, output.SerializeToString())

    def cancel(self, call: Call) -> None:
        """Makes sure that no later engine takes the call up."""
        self._store.drop_inputs(call.id)

    def facts(self, call_id: str) -> dict[str, Any] | None:
        """What is known of a call of this engine or an earlier one."""
        data = self._store.find("call", call_id)
        return json.loads(data) if data else None

    def unfinished(self, find_function: Callable[[str], Function | None]) -> list[Call]:
        """Calls that an earlier engine left open, with the inputs that lack a result."""
        calls: dict[str, Call] = {}
        for call_id, idx, data in self._store.inputs():
            facts = self.facts(call_id)
            function = find_function(facts["function_id"]) if facts else None
            if facts is None or function is None:  # the app was stopped meanwhile
                self._store.drop_inputs(call_id)
                continue
            if call_id not in calls:
                calls[call_id] = Call(
                    call_id,
                    function,
                    is_sync=False,
                    is_map=facts["is_map"],
                    created_at=facts.get("created_at", 0.0),
                )
            calls[call_id].add(idx, proto.FunctionInput.FromString(data))
            calls[call_id].n_inputs = facts["n_inputs"]
        return list(calls.values())

    def _keep_blob(self, blob_id: str) -> None:
        if blob_id:
            self._store.put("blob", blob_id, b"")
