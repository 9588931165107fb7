"""Every object store under faults; Google's is a fake at the level of requests."""

from __future__ import annotations

from functools import partial

import pytest

from conformance.stores.fault_suite import FaultSuite, Wire
from fault_proxy import FaultProxy
from gcs_fake import GcsFake
from modalbatch.job import Credentials
from modalbatch.stores.azure import AzureStore
from modalbatch.stores.gcs import GcsStore
from modalbatch.stores.s3 import S3Store
from servers import Bucket, Container


class TestS3(FaultSuite):
    @pytest.fixture
    def wire(self, s3_bucket: Bucket, fault_proxy: FaultProxy) -> Wire:
        uri = f"{s3_bucket.uri}out/"
        return Wire(
            open=partial(S3Store, uri, endpoint_url=fault_proxy.url, n_tries=2),
            behind=S3Store(uri, endpoint_url=s3_bucket.endpoint_url),
            proxy=fault_proxy,
            create="PUT",
            next_page="continuation-token",
            media="blob",
            condition="If-None-Match",
            taken={"status": 412, "code": "PreconditionFailed"},
            conflict={"status": 409, "code": "ConditionalRequestConflict"},
            busy={"status": 503, "code": "SlowDown"},
            expired={"status": 403, "code": "ExpiredToken"},
            no_container={"status": 404, "code": "NoSuchBucket"},
        )


class TestAzure(FaultSuite):
    @pytest.fixture
    def wire(self, azure_container: Container, azure_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Wire:
        uri = f"{azure_container.uri}out/"
        # A key signs the headers, so that a proxy could take none away.
        monkeypatch.setenv("LAKE_SAS", azure_container.sas_token())
        account = azure_container.endpoint_url.rpartition("/")[2]
        return Wire(
            open=partial(
                AzureStore,
                uri,
                endpoint_url=f"{azure_proxy.url}/{account}",
                credentials=Credentials(sas_token="LAKE_SAS"),
            ),
            behind=AzureStore(uri, endpoint_url=azure_container.endpoint_url),
            proxy=azure_proxy,
            create="PUT",
            next_page="marker=",
            media="blob",
            condition="If-None-Match",
            taken={"status": 409, "code": "BlobAlreadyExists"},
            conflict={"status": 409, "code": "OperationTimedOut"},
            busy={"status": 503, "code": "ServerBusy"},
            expired={"status": 403, "code": "AuthenticationFailed"},
            no_container={"status": 404, "code": "ContainerNotFound"},
        )


class TestGcsFake(FaultSuite):
    @pytest.fixture
    def wire(self, gcs_fake: GcsFake, gcs_proxy: FaultProxy) -> Wire:
        anonymous = Credentials(anonymous=True)
        return Wire(
            open=partial(GcsStore, "gs://lake/out/", endpoint_url=gcs_proxy.url, credentials=anonymous, retry_s=3.0),
            behind=GcsStore("gs://lake/out/", endpoint_url=gcs_fake.url, credentials=anonymous),
            proxy=gcs_proxy,
            create="POST",
            next_page="pageToken",
            media="download",
            condition="ifGenerationMatch",
            taken={"status": 412, "code": "conditionNotMet"},
            conflict={"status": 409, "code": "conflict"},
            busy={"status": 429, "code": "rateLimitExceeded"},
            expired={"status": 403, "code": "forbidden"},
            no_container={"status": 404, "code": "notFound", "message": "The specified bucket does not exist."},
        )
