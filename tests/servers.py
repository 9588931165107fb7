"""Real servers on loopback for the tests: S3 (moto), Azure (azurite), each with a proxy that breaks what passes.

Import the fixtures where they are used: `from servers import s3_server, s3_bucket, fault_proxy`.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from fault_proxy import FaultProxy

_TOOLS = Path(__file__).resolve().parents[1] / ".tools"
#: The last one for Node 20 and older.
_AZURITE = "azurite@3.35.0"
#: What npm says where there is no way to its registry; any other failure of its is a failure.
_NO_REGISTRY = (
    r"\b(ENOTFOUND|EAI_AGAIN|ECONN\w+|E(SOCKET)?TIMEDOUT|ERR_SOCKET_TIMEOUT|ENETUNREACH|EHOSTUNREACH|\w+_CERT\w*)\b"
)
_ACCOUNT = "modalbatch"
_ACCOUNT_KEY = base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass
class Bucket:
    """A bucket of its own for one test."""

    name: str
    endpoint_url: str

    @property
    def uri(self) -> str:
        return f"s3://{self.name}/"

    def client(self):
        """A plain boto3 client, for what the tests do behind the store's back."""
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint_url, region_name="us-east-1")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a moto server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket, and credentials for it in the environment."""
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket = Bucket(f"test-{uuid.uuid4().hex}", s3_server)
    bucket.client().create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture
def fault_proxy(s3_server: str) -> Iterator[FaultProxy]:
    """A proxy before the S3 server."""
    proxy = FaultProxy(s3_server)
    yield proxy
    proxy.close()


@dataclass
class Container:
    """A container of an Azure account, of its own for one test."""

    name: str
    #: Of the account.
    endpoint_url: str
    connection_string: str

    @property
    def uri(self) -> str:
        return f"az://{self.name}/"

    def client(self):
        """A plain client, for what the tests do behind the store's back."""
        from azure.storage.blob import ContainerClient

        return ContainerClient.from_connection_string(self.connection_string, self.name)

    def sas_token(self) -> str:
        """A signature that may do everything in this container for an hour."""
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas

        allowed = ContainerSasPermissions(read=True, write=True, create=True, delete=True, list=True)
        expiry = datetime.now(timezone.utc) + timedelta(hours=1)
        return generate_container_sas(_ACCOUNT, self.name, _ACCOUNT_KEY, permission=allowed, expiry=expiry)


def connection_string(endpoint_url: str) -> str:
    """That of the tests' account, at an endpoint (of the server, or of a proxy before it)."""
    return (
        f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_ACCOUNT_KEY};"
        f"BlobEndpoint={endpoint_url}/{_ACCOUNT};"
    )


@pytest.fixture(scope="session")
def azure_server() -> Iterator[str]:
    """The endpoint of an azurite server."""
    with subprocess.Popen(
        ["node", str(_azurite()), "--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence",
         "--disableTelemetry", "--skipApiVersionCheck", "--silent"],
        env={**os.environ, "AZURITE_ACCOUNTS": f"{_ACCOUNT}:{_ACCOUNT_KEY}"},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - no other thread is forked with it
    ) as process:  # fmt: skip
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"successfully listens on (http://\S+)", line):
                break
        else:
            raise AssertionError(f"azurite does not start:\n{said}")
        yield found[1]
        process.terminate()
        process.wait()


@pytest.fixture
def azure_container(azure_server: str, monkeypatch: pytest.MonkeyPatch) -> Container:
    """A new container, and credentials for it in the environment."""
    text = connection_string(azure_server)
    monkeypatch.setenv("AZURE_STORAGE_KEY", _ACCOUNT_KEY)
    container = Container(f"test-{uuid.uuid4().hex}", f"{azure_server}/{_ACCOUNT}", text)
    container.client().create_container()
    return container


@pytest.fixture
def azure_proxy(azure_server: str) -> Iterator[FaultProxy]:
    """A proxy before the Azure server."""
    proxy = FaultProxy(azure_server)
    yield proxy
    proxy.close()


def _azurite() -> Path:
    """azurite's script, installed once into `.tools/`."""
    folder = _TOOLS / "npm"
    script = folder / "node_modules/azurite/dist/src/blob/main.js"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not script.exists():
            _install_azurite(folder)
    return script


def _install_azurite(folder: Path) -> None:
    if not _has_node():
        pytest.skip("azurite needs node and npm, which are not here and cannot be installed")
    done = subprocess.run(
        ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--loglevel=error", _AZURITE],
        env={**os.environ, "npm_config_cache": str(_TOOLS / "npm-cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    if done.returncode and re.search(_NO_REGISTRY, output):
        pytest.skip(f"azurite's package cannot be had:\n{output}")
    assert done.returncode == 0, output


def _has_node() -> bool:
    """Whether node and npm are here, Debian's if need be and root is at hand."""
    if not (shutil.which("node") and shutil.which("npm")) and os.geteuid() == 0 and shutil.which("apt-get"):
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "nodejs", "npm"]):
            subprocess.run(["apt-get", *words], env=environ, capture_output=True, check=False)
    return bool(shutil.which("node") and shutil.which("npm"))


def _die_with_parent() -> None:
    """In the child: a killed session leaves no server behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
