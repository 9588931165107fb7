"""Fixtures: servers on loopback."""

from servers import fault_proxy, s3_bucket, s3_server  # noqa: F401
