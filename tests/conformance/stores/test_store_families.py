"""Every store passes the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.stores.store_suite import StoreSuite
from gcs_fake import GcsFake
from modalbatch.job import Credentials
from modalbatch.stores import Store, open_store
from modalbatch.stores.volume import MountedVolumeStore
from servers import Bucket, Container


class TestLocal(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return open_store(f"{tmp_path}/not/there/yet/")


class TestS3(StoreSuite):
    @pytest.fixture
    def store(self, s3_bucket: Bucket) -> Store:
        return open_store(f"{s3_bucket.uri}some/prefix/", endpoint_url=s3_bucket.endpoint_url)


class TestS3Bucket(StoreSuite):
    @pytest.fixture
    def store(self, s3_bucket: Bucket) -> Store:
        return open_store(s3_bucket.uri, endpoint_url=s3_bucket.endpoint_url)


class TestAzure(StoreSuite):
    @pytest.fixture
    def store(self, azure_container: Container) -> Store:
        return open_store(f"{azure_container.uri}some/prefix/", endpoint_url=azure_container.endpoint_url)


class TestAzureContainer(StoreSuite):
    @pytest.fixture
    def store(self, azure_container: Container) -> Store:
        return open_store(azure_container.uri, endpoint_url=azure_container.endpoint_url)


class TestGcsFake(StoreSuite):
    """What is sent, against a fake: see `gcs_fake.py`."""

    @pytest.fixture
    def store(self, gcs_fake: GcsFake) -> Store:
        return open_store("gs://lake/some/prefix/", endpoint_url=gcs_fake.url, credentials=Credentials(anonymous=True))


class TestMountedVolume(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        calls: list[str] = []
        return MountedVolumeStore(
            "volume://v/out/",
            f"{tmp_path}/mnt/out/",
            commit=lambda: calls.append("commit"),
            refresh=lambda: calls.append("reload"),
        )
