"""The suite for a Volume through Modal's API; run by `test_volume_api.py` as a client of a local engine."""

from __future__ import annotations

import json
import os
import uuid

import pytest

from conformance.stores.store_suite import StoreSuite
from modalbatch.stores import Store, open_store

# The tests' own conftest has taken Modal's variables away.
os.environ |= json.loads(os.environ["ENGINE_ENVIRON"])


class TestVolumeApi(StoreSuite):
    @pytest.fixture
    def store(self) -> Store:
        return open_store(f"volume://{uuid.uuid4().hex}/out/")

    def test_one_of_many_threads_creates(self, store: Store) -> None:
        """Not promised: two clients that upload one name at once both may succeed."""
        assert not store.has_conditional_create
