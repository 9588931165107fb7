"""Google Cloud Storage, at the level of requests: exactly what is sent, against a fake; and a real emulator refused."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from gcs_fake import GcsFake
from modalbatch.errors import StateError, UnavailableError
from modalbatch.job import Credentials
from modalbatch.stores.gcs import GcsStore

ANONYMOUS = Credentials(anonymous=True)


@pytest.fixture
def store(gcs_fake: GcsFake) -> GcsStore:
    return GcsStore("gs://lake/out/", endpoint_url=gcs_fake.url, credentials=ANONYMOUS, page_count=3)


def sent(fake: GcsFake) -> list[tuple[str, str, dict[str, str]]]:
    """Method, path and parameters of what came by, without what the client says of itself."""
    requests = []
    for method, path in fake.seen:
        parts = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        requests.append(
            (method, parts.path, {k: v for k, v in query.items() if k not in ("prettyPrint", "projection")})
        )
    fake.seen.clear()
    return requests


def test_the_requests(store: GcsStore, gcs_fake: GcsFake, tmp_path: Path) -> None:
    upload, objects = "/upload/storage/v1/b/lake/o", "/storage/v1/b/lake/o"
    assert store.create("r/1", b"mine")
    assert sent(gcs_fake) == [("POST", upload, {"uploadType": "multipart", "ifGenerationMatch": "0"})]
    store.replace("_SUCCESS", b"{}")
    assert sent(gcs_fake) == [("POST", upload, {"uploadType": "multipart"})]
    path = tmp_path / "part"
    path.write_bytes(b"data")
    store.put_file("part", path, hashlib.sha256(b"data").hexdigest())
    assert sent(gcs_fake) == [("POST", upload, {"uploadType": "multipart"})]
    entry = store.stat("r/1")
    assert entry
    assert sent(gcs_fake) == [("GET", f"{objects}/out%2Fr%2F1", {})]
    with store.open("r/1", start=1, end=3, pin=entry.pin) as stream:
        assert stream.read() == b"in"
    media = f"/download{objects}/out%2Fr%2F1"
    assert sent(gcs_fake)[1:] == [("GET", media, {"alt": "media", "ifGenerationMatch": entry.pin})]
    assert store.read("r/1") == b"mine"
    assert sent(gcs_fake) == [("GET", media, {"alt": "media"})]
    store.delete(["r/1", "absent"])
    assert sorted(sent(gcs_fake)) == [
        ("DELETE", f"{objects}/out%2Fabsent", {}), ("DELETE", f"{objects}/out%2Fr%2F1", {}),
    ]  # fmt: skip
    fields = "items(name,size,updated,generation),prefixes,nextPageToken"
    assert [entry.name for entry in store.list("p")] == ["part"]
    assert sent(gcs_fake) == [("GET", objects, {"prefix": "out/p", "maxResults": "3", "fields": fields})]


def test_a_refused_create_is_read_back(store: GcsStore, gcs_fake: GcsFake) -> None:
    assert store.create("r", b"theirs")
    sent(gcs_fake)
    assert store.create("r", b"mine") is False
    assert [(method, query.get("ifGenerationMatch")) for method, _, query in sent(gcs_fake)] == [
        ("POST", "0"), ("GET", None),
    ]  # fmt: skip


def test_a_large_file_goes_in_pieces(store: GcsStore, gcs_fake: GcsFake, tmp_path: Path) -> None:
    path, data = tmp_path / "part", random.Random(1).randbytes((32 << 20) + 7)
    path.write_bytes(data)
    store.put_file("part", path, hashlib.sha256(data).hexdigest())
    assert [method for method, _, _ in sent(gcs_fake)] == ["POST", "PUT", "PUT"]
    assert gcs_fake.buckets["lake"]["out/part"].data == data


def test_a_listing_goes_on_behind_what_it_has(store: GcsStore, gcs_fake: GcsFake) -> None:
    for name in ["a", "skip/1", "want/1", "want/2", "z"]:
        store.replace(name, b"")
    sent(gcs_fake)
    names = [entry.name for entry in store.list(descend=lambda folder: folder == "want/")]
    assert [name for name in names if not name.startswith("skip/")] == ["a", "want/1", "want/2", "z"]
    first, *rest = [query for _, _, query in sent(gcs_fake)]
    assert (first["delimiter"], "startOffset" in first) == ("/", False)
    assert rest[0]["startOffset"] == "out/skip/"


def test_a_bucket_that_does_not_exist(gcs_fake: GcsFake) -> None:
    store = GcsStore("gs://nothing/", endpoint_url=gcs_fake.url, credentials=ANONYMOUS)
    for step in (store.probe, lambda: list(store.list()), lambda: store.stat("x"), lambda: store.read("x")):
        with pytest.raises(UnavailableError) as caught:
            step()
        assert caught.value.message == "the bucket `nothing` does not exist"


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    with pytest.raises(UnavailableError) as caught:
        GcsStore("gs://lake/")
    assert caught.value.message.startswith("no credentials for Google Cloud Storage: ")
    assert "\n" not in caught.value.message
    assert caught.value.hint == "name them in `credentials`, or set GOOGLE_APPLICATION_CREDENTIALS"


def test_a_key_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    named = Credentials(secret="lake", service_account_json="LAKE_KEY")
    with pytest.raises(UnavailableError, match="`LAKE_KEY` of the secret `lake` is not set"):
        GcsStore("gs://lake/", credentials=named)
    monkeypatch.setenv("LAKE_KEY", "secret-that-is-no-json")
    with pytest.raises(UnavailableError, match="no credentials for Google Cloud Storage") as caught:
        GcsStore("gs://lake/", credentials=named)
    assert "secret-that" not in caught.value.message


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[str]:
    """The endpoint of gcp-storage-emulator, with a bucket `lake`; a real server that ignores `ifGenerationMatch=0`."""
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="lake")
    server.start()
    yield "http://{}:{}".format(*server._api._httpd.server_address)
    server.stop()


def test_an_emulator_that_overwrites_is_refused(emulator: str) -> None:
    """F45: real requests to a real server."""
    store = GcsStore("gs://lake/out/", endpoint_url=emulator, credentials=ANONYMOUS)
    with pytest.raises(StateError) as caught:
        store.probe()
    assert caught.value.message == (
        "`gs://lake/out/` overwrites objects that must be written once: it ignores `ifGenerationMatch`"
    )
    assert list(store.list()) == []
