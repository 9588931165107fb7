"""Fixtures: servers on loopback."""

from gcs_fake import gcs_fake, gcs_proxy  # noqa: F401
from servers import azure_container, azure_proxy, azure_server, fault_proxy, s3_bucket, s3_server  # noqa: F401
