"""Waiting for what comes back."""

from __future__ import annotations

import asyncio

import pytest

from modalbatch.engines.local.calls.call import Call


def test_a_caller_that_leaves_as_something_comes_is_noticed():
    async def leave():
        call = Call("fc-1", None, is_sync=True, is_map=False)
        waiting = asyncio.ensure_future(call.wait(1000))
        await asyncio.sleep(0)
        call.wake()
        await asyncio.sleep(0)  # the wait is over, and about to go on
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(leave())
