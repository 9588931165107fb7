"""Fixtures: servers on loopback, and the command in a folder of its own."""

from e2e.conftest import modalbatch, squares, work  # noqa: F401
from servers import azure_container, azure_proxy, azure_server, fault_proxy, s3_bucket, s3_server  # noqa: F401
