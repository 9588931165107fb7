"""Azure: what is asked of it, and with which credentials. Faults are in `conformance/stores/`."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from fault_proxy import FaultProxy
from modalbatch.errors import UnavailableError
from modalbatch.job import Credentials
from modalbatch.stores.azure import AzureStore
from servers import Container, connection_string


@pytest.fixture
def store(azure_container: Container, azure_proxy: FaultProxy) -> AzureStore:
    account = azure_container.endpoint_url.rpartition("/")[2]
    return AzureStore(f"{azure_container.uri}out/", endpoint_url=f"{azure_proxy.url}/{account}")


class TestRequests:
    def test_a_create_is_one_request_with_its_checksum(self, store: AzureStore, azure_proxy: FaultProxy) -> None:
        assert store.create("r", b"mine")
        (seen,) = azure_proxy.seen
        assert (seen.method, seen.headers["if-none-match"], seen.headers["x-ms-blob-type"]) == ("PUT", "*", "BlockBlob")
        assert "content-md5" in seen.headers

    def test_a_small_file_is_one_request(self, store: AzureStore, azure_proxy: FaultProxy, tmp_path: Path) -> None:
        path = tmp_path / "part"
        path.write_bytes(b"x" * 100_000)
        store.put_file("part", path, hashlib.sha256(b"x" * 100_000).hexdigest())
        (seen,) = azure_proxy.seen
        assert (seen.method, "content-md5" in seen.headers) == ("PUT", True)

    def test_a_large_file_goes_in_blocks(self, store: AzureStore, azure_proxy: FaultProxy, tmp_path: Path) -> None:
        path, data = tmp_path / "part", random.Random(1).randbytes((16 << 20) + 1)
        path.write_bytes(data)
        azure_proxy.add("reset", path="comp=block&")
        store.put_file("part", path, hashlib.sha256(data).hexdigest())
        blocks = [seen for seen in azure_proxy.seen if "comp=block&" in seen.path and not seen.fault]
        assert len(blocks) == 3
        assert all("content-md5" in seen.headers for seen in blocks)
        assert [seen.method for seen in azure_proxy.seen[-2:]] == ["PUT", "HEAD"]
        with store.open("part", start=(8 << 20) - 5) as stream:
            assert stream.read() == data[(8 << 20) - 5 :]

    def test_blocks_without_a_list_are_nothing(
        self, store: AzureStore, azure_container: Container, azure_proxy: FaultProxy, tmp_path: Path
    ) -> None:
        path, data = tmp_path / "part", random.Random(1).randbytes((8 << 20) + 1)
        path.write_bytes(data)
        azure_proxy.add("status", path="comp=blocklist", status=403, code="AuthorizationFailure", times=None)
        with pytest.raises(UnavailableError, match="access denied: cannot write"):
            store.put_file("part", path, hashlib.sha256(data).hexdigest())
        assert list(store.list()) == []
        assert store.stat("part") is None
        assert path.exists()

    def test_a_range_asks_for_itself(self, store: AzureStore, azure_proxy: FaultProxy) -> None:
        store.replace("blob", bytes(12_000_000))
        with store.open("blob", start=1_000_000, end=6_000_000) as stream:
            assert len(stream.read()) == 5_000_000
        ranges = [seen.headers.get("x-ms-range") for seen in azure_proxy.seen if seen.method == "GET"]
        assert ranges == ["bytes=1000000-5194303", "bytes=5194304-5999999"]
        matches = [seen.headers.get("if-match") for seen in azure_proxy.seen if seen.method == "GET"]
        assert matches[0] is None
        assert matches[1]

    def test_many_deletes_are_one_request(self, store: AzureStore, azure_proxy: FaultProxy) -> None:
        for n in range(5):
            store.replace(f"d/{n}", b"")
        azure_proxy.seen.clear()
        store.delete(f"d/{n}" for n in range(300))
        assert [seen.method for seen in azure_proxy.seen] == ["POST", "POST"]
        assert list(store.list()) == []

    def test_folders_that_nobody_wants_are_not_listed(self, store: AzureStore, azure_proxy: FaultProxy) -> None:
        for name in ["a.jsonl", "deep/1", "deep/2", "want/x/1", "z.jsonl"]:
            store.replace(name, b"")
        azure_proxy.seen.clear()
        names = [entry.name for entry in store.list(descend=lambda folder: folder == "want/")]
        assert names == ["a.jsonl", "want/x/1", "z.jsonl"]
        assert len(azure_proxy.seen) == 2

    def test_folders_of_a_hierarchical_namespace_are_no_objects(
        self, store: AzureStore, azure_container: Container
    ) -> None:
        azure_container.client().upload_blob("out/folder", b"", metadata={"hdi_isfolder": "true"})
        store.replace("folder/x", b"1")
        assert [entry.name for entry in store.list()] == ["folder/x"]
        assert store.stat("folder") is None


class TestCredentials:
    def test_a_named_connection_string(
        self, azure_container: Container, azure_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        named = Credentials(secret="lake", connection_string="LAKE")
        with pytest.raises(UnavailableError) as caught:
            AzureStore(azure_container.uri, credentials=named)
        assert caught.value.message == "`LAKE` of the secret `lake` is not set"
        monkeypatch.setenv("LAKE", connection_string(azure_proxy.url))
        AzureStore(azure_container.uri, credentials=named).probe()
        assert azure_proxy.seen[0].headers["authorization"].startswith("SharedKey modalbatch:")

    def test_a_connection_string_of_the_environment(
        self, azure_container: Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AZURE_STORAGE_KEY")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure_container.connection_string)
        AzureStore(azure_container.uri).probe()

    def test_a_named_key(self, azure_container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
        key = azure_container.connection_string.partition("AccountKey=")[2].partition(";")[0]
        monkeypatch.setenv("LAKE_KEY", key)
        monkeypatch.setenv("AZURE_STORAGE_KEY", "d3Jvbmc=")
        named = Credentials(secret="lake", account_key="LAKE_KEY")
        AzureStore(azure_container.uri, endpoint_url=azure_container.endpoint_url, credentials=named).probe()

    def test_a_signature_stands_in_the_address(
        self, azure_container: Container, azure_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LAKE_SAS", f"?{azure_container.sas_token()}")
        account = azure_container.endpoint_url.rpartition("/")[2]
        named = Credentials(secret="lake", sas_token="LAKE_SAS")
        store = AzureStore(azure_container.uri, endpoint_url=f"{azure_proxy.url}/{account}", credentials=named)
        store.probe()
        store.delete(["absent"])
        assert "authorization" not in azure_proxy.seen[0].headers
        assert "sig=" in azure_proxy.seen[0].path
        azure_proxy.add("status", status=403, code="AuthenticationFailed", times=None)
        with pytest.raises(UnavailableError) as caught:
            store.stat("x")
        assert "sig=" not in caught.value.message

    def test_the_account_must_be_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UnavailableError) as caught:
            AzureStore("az://lake/")
        assert caught.value.message == "the account of `az://` is not known"
        assert caught.value.hint == (
            "set `endpoint_url: https://ACCOUNT.blob.core.windows.net`, or AZURE_STORAGE_ACCOUNT"
        )

    def test_no_credentials_at_all(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")  # no look at the network
        slept: list[float] = []
        store = AzureStore("az://lake/", endpoint_url="https://127.0.0.1:9/account", sleep=slept.append)
        with pytest.raises(UnavailableError) as caught:
            store.stat("x")
        assert caught.value.message == "no credentials: cannot read `az://lake/x`"
        assert caught.value.hint == "name them in `credentials`, or set AZURE_STORAGE_CONNECTION_STRING"
        assert (slept, capfd.readouterr().err) == ([], "")

    def test_a_key_that_is_none(self, azure_container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LAKE", "a secret that is no connection string")
        with pytest.raises(UnavailableError, match="no Azure client: ") as caught:
            AzureStore(azure_container.uri, credentials=Credentials(secret="lake", connection_string="LAKE"))
        assert "a secret" not in caught.value.message

    def test_a_wrong_key(self, azure_container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_STORAGE_KEY", "d3Jvbmc=")
        with pytest.raises(
            UnavailableError, match=r"^access denied: cannot write `az://\S+` \(AuthorizationFailure\)$"
        ):
            AzureStore(azure_container.uri, endpoint_url=azure_container.endpoint_url).probe()

    def test_a_container_that_does_not_exist(self, azure_container: Container) -> None:
        store = AzureStore("az://nothing-here/", endpoint_url=azure_container.endpoint_url)
        for step in (store.probe, lambda: list(store.list()), lambda: store.stat("x"), lambda: store.read("x")):
            with pytest.raises(UnavailableError) as caught:
                step()
            assert caught.value.message == "the container `nothing-here` does not exist (ContainerNotFound)"
            assert caught.value.hint == "create it, or check `uri` and the account"
