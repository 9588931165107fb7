"""S3 under faults: what the protocol of `guarantees.md` section 3 asks of the store."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from fault_proxy import FaultProxy
from modalbatch.errors import InputChangedError, StateError, UnavailableError
from modalbatch.job import Credentials
from modalbatch.stores.s3 import S3Store
from servers import Bucket


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def store(s3_bucket: Bucket, fault_proxy: FaultProxy, slept: list[float]) -> S3Store:
    return S3Store(f"{s3_bucket.uri}out/", endpoint_url=fault_proxy.url, sleep=slept.append)


def n_requests(proxy: FaultProxy, method: str) -> int:
    return sum(seen.method == method for seen in proxy.seen)


class TestCreate:
    def test_costs_one_request(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        assert store.create("r", b"mine")
        assert [seen.method for seen in fault_proxy.seen] == ["PUT"]
        assert fault_proxy.seen[0].headers["if-none-match"] == "*"
        assert "content-md5" in fault_proxy.seen[0].headers

    def test_a_lost_reply_is_our_own_success(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        fault_proxy.add("lose_reply", method="PUT")
        assert store.create("r", b"mine") is True
        assert n_requests(fault_proxy, "PUT") == 2

    def test_a_lost_reply_to_anothers_refusal(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        assert store.create("r", b"theirs")
        fault_proxy.add("lose_reply", method="PUT")
        assert store.create("r", b"mine") is False

    def test_a_conflict_is_tried_again(self, store: S3Store, fault_proxy: FaultProxy, slept: list[float]) -> None:
        fault_proxy.add("status", method="PUT", status=409, code="ConditionalRequestConflict", times=2)
        assert store.create("r", b"mine") is True
        assert len(slept) == 2
        assert slept[0] < slept[1]

    def test_conflicts_without_end_are_settled_by_reading(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        assert store.create("theirs", b"theirs")
        fault_proxy.add("status", method="PUT", status=409, code="ConditionalRequestConflict", times=None)
        assert store.create("theirs", b"mine") is False
        with pytest.raises(UnavailableError, match=r"cannot write `s3://test-\w+/out/nobodys`: .*Conflict"):
            store.create("nobodys", b"mine")

    def test_slow_down_is_waited_out(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        fault_proxy.add("status", method="PUT", status=503, times=2)
        assert store.create("r", b"mine") is True

    @pytest.mark.parametrize(
        ("status", "code", "message"),
        [
            (403, "AccessDenied", "access denied: cannot write `s3://{0}/out/r` (AccessDenied)"),
            (403, "ExpiredToken", "access denied: cannot write `s3://{0}/out/r` (ExpiredToken)"),
            (404, "NoSuchBucket", "the bucket `{0}` does not exist"),
            (301, "PermanentRedirect", "the bucket `{0}` lies in another region (PermanentRedirect)"),
        ],
    )
    def test_what_no_retry_mends_is_said_at_once(
        self, store: S3Store, fault_proxy: FaultProxy, s3_bucket: Bucket, status: int, code: str, message: str
    ) -> None:
        fault_proxy.add("status", method="PUT", status=status, code=code, times=None)
        with pytest.raises(UnavailableError) as caught:
            store.create("r", b"mine")
        assert caught.value.message == message.format(s3_bucket.name)
        assert caught.value.hint

    def test_a_store_that_ignores_the_condition_is_refused(
        self, store: S3Store, fault_proxy: FaultProxy, s3_bucket: Bucket
    ) -> None:
        fault_proxy.add("strip", method="PUT", header="If-None-Match", times=None)
        with pytest.raises(StateError) as caught:
            store.probe()
        assert caught.value.message == (
            f"`s3://{s3_bucket.name}/out/` overwrites objects that must be written once: it ignores `If-None-Match`"
        )
        assert caught.value.hint == "set `delivery: at_least_once`, or use a store with conditional writes"
        assert list(store.list()) == []

    def test_a_store_that_does_not_know_the_condition_is_refused(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        fault_proxy.add("status", method="PUT", status=501, code="NotImplemented", times=None)
        with pytest.raises(StateError, match="ignores `If-None-Match`"):
            store.create("r", b"mine")


class TestRead:
    def test_a_cut_body_is_joined(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        data = random.Random(1).randbytes(3_000_000)
        store.replace("blob", data)
        fault_proxy.add("cut", method="GET", after_bytes=1_000_003)
        entry = store.stat("blob")
        assert entry
        with store.open("blob", start=10, end=2_900_000, pin=entry.pin) as stream:
            assert stream.read() == data[10:2_900_000]

    def test_an_object_overwritten_meanwhile_is_never_spliced(
        self, store: S3Store, fault_proxy: FaultProxy, s3_bucket: Bucket
    ) -> None:
        store.replace("blob", b"a" * 3_000_000)
        entry = store.stat("blob")
        assert entry
        client = s3_bucket.client()
        fault_proxy.add(
            "cut",
            method="GET",
            after_bytes=1_000_000,
            meanwhile=lambda: client.put_object(Bucket=s3_bucket.name, Key="out/blob", Body=b"b" * 3_000_000),
        )
        with store.open("blob", pin=entry.pin) as stream:
            with pytest.raises(InputChangedError, match="blob` changed after it was listed"):
                stream.read()

    def test_a_range_asks_for_little_more_than_itself(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        store.replace("blob", os.urandom(4_000_000))
        with store.open("blob", start=1_000_000, end=1_700_000) as stream:
            assert len(stream.read()) == 700_000
        ranges = [seen.headers.get("range") for seen in fault_proxy.seen if seen.method == "GET"]
        assert ranges == ["bytes=1000000-1786431"]

    def test_slow_down_is_waited_out(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        store.replace("blob", b"data")
        fault_proxy.add("status", method="GET", status=503, times=1)
        assert store.read("blob") == b"data"

    def test_denied(self, store: S3Store, fault_proxy: FaultProxy, s3_bucket: Bucket) -> None:
        fault_proxy.add("status", method="GET", status=403, code="AccessDenied", times=None)
        with pytest.raises(UnavailableError) as caught:
            store.read("blob")
        assert caught.value.message == f"access denied: cannot read `s3://{s3_bucket.name}/out/blob` (AccessDenied)"
        with pytest.raises(UnavailableError, match="access denied: cannot list"):
            list(store.list())


class TestWrite:
    def test_a_file_is_one_request_with_its_checksum(
        self, store: S3Store, fault_proxy: FaultProxy, tmp_path: Path
    ) -> None:
        path = tmp_path / "part"
        path.write_bytes(b"x" * 100_000)
        store.put_file("part", path, hashlib.sha256(b"x" * 100_000).hexdigest())
        # moto does not repeat the checksum as S3 does, so the size is asked for.
        assert [seen.method for seen in fault_proxy.seen] == ["PUT", "HEAD"]
        assert "x-amz-checksum-sha256" in fault_proxy.seen[0].headers

    def test_a_large_file_goes_in_parts(self, store: S3Store, fault_proxy: FaultProxy, tmp_path: Path) -> None:
        path = tmp_path / "part"
        data = random.Random(1).randbytes((64 << 20) + 1)
        path.write_bytes(data)
        store.put_file("part", path, hashlib.sha256(data).hexdigest())
        assert n_requests(fault_proxy, "PUT") == 3
        entry = store.stat("part")
        assert entry
        assert entry.size_bytes == len(data)
        with store.open("part", start=(64 << 20) - 5) as stream:
            assert stream.read() == data[-6:]

    def test_a_lost_reply_and_a_reset_are_tried_again(
        self, store: S3Store, fault_proxy: FaultProxy, tmp_path: Path
    ) -> None:
        path = tmp_path / "part"
        path.write_bytes(b"data")
        fault_proxy.add("lose_reply", method="PUT")
        fault_proxy.add("reset", method="PUT")
        store.put_file("part", path, hashlib.sha256(b"data").hexdigest())
        assert store.read("part") == b"data"

    def test_a_wrong_checksum_is_not_stored(self, store: S3Store, fault_proxy: FaultProxy, tmp_path: Path) -> None:
        path = tmp_path / "part"
        path.write_bytes(b"data")
        fault_proxy.add("status", method="PUT", status=400, code="BadDigest", times=None)
        with pytest.raises(UnavailableError, match="BadDigest"):
            store.put_file("part", path, hashlib.sha256(b"data").hexdigest())
        assert path.exists()

    def test_uploads_of_the_dead_are_aborted(self, store: S3Store, s3_bucket: Bucket) -> None:
        client = s3_bucket.client()
        client.create_multipart_upload(Bucket=s3_bucket.name, Key="out/part-1")
        client.create_multipart_upload(Bucket=s3_bucket.name, Key="out/foreign.tar")
        client.create_multipart_upload(Bucket=s3_bucket.name, Key="other/part-2")
        assert store.sweep_unfinished(10**9, lambda name: name == "part-1") == 0
        assert store.sweep_unfinished(-(10**9), lambda name: name == "part-1") == 1
        left = client.list_multipart_uploads(Bucket=s3_bucket.name)["Uploads"]
        assert sorted(upload["Key"] for upload in left) == ["other/part-2", "out/foreign.tar"]

    def test_a_credential_that_may_not_see_uploads_sweeps_none(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        fault_proxy.add("status", method="GET", status=403, code="AccessDenied", times=None)
        assert store.sweep_unfinished(0, lambda name: True) == 0

    def test_a_refused_delete_is_said(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        fault_proxy.add("status", method="POST", status=403, code="AccessDenied", times=None)
        with pytest.raises(UnavailableError, match="access denied: cannot delete"):
            store.delete(["x"])


class TestList:
    def test_pages(self, s3_bucket: Bucket, fault_proxy: FaultProxy) -> None:
        store = S3Store(s3_bucket.uri, endpoint_url=fault_proxy.url, page_count=3)
        names = [f"{index:02}" for index in range(10)]
        for name in names:
            store.replace(name, b"")
        assert [entry.name for entry in store.list()] == names
        assert n_requests(fault_proxy, "GET") == 4
        store.delete(names)
        assert n_requests(fault_proxy, "POST") == 4
        assert list(store.list()) == []

    def test_a_page_that_fails_is_asked_again(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        store.replace("a", b"")
        fault_proxy.add("status", method="GET", status=500, code="InternalError")
        assert [entry.name for entry in store.list()] == ["a"]

    def test_folders_that_nobody_wants_are_not_listed(self, store: S3Store, fault_proxy: FaultProxy) -> None:
        for name in ["a.jsonl", "deep/1", "deep/2", "z.jsonl"]:
            store.replace(name, b"")
        assert [entry.name for entry in store.list(descend=lambda folder: False)] == ["a.jsonl", "z.jsonl"]


class TestCredentials:
    def test_named_variables(self, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        named = Credentials(secret="r2", access_key_id="R2_KEY", secret_access_key="R2_SECRET")
        with pytest.raises(UnavailableError) as caught:
            S3Store(s3_bucket.uri, endpoint_url=s3_bucket.endpoint_url, credentials=named)
        assert caught.value.message == "`R2_KEY` of the secret `r2` is not set"
        monkeypatch.setenv("R2_KEY", "THEKEY")
        monkeypatch.setenv("R2_SECRET", "x")
        store = S3Store(s3_bucket.uri, endpoint_url=s3_bucket.endpoint_url, credentials=named)
        store.probe()

    def test_signed_with_the_named_key(
        self, s3_bucket: Bucket, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("R2_KEY", "THEKEY")
        monkeypatch.setenv("R2_SECRET", "x")
        named = Credentials(access_key_id="R2_KEY", secret_access_key="R2_SECRET")
        S3Store(s3_bucket.uri, endpoint_url=fault_proxy.url, credentials=named).stat("x")
        assert "Credential=THEKEY/" in fault_proxy.seen[0].headers["authorization"]

    def test_anonymous_is_unsigned(self, s3_bucket: Bucket, fault_proxy: FaultProxy) -> None:
        S3Store(s3_bucket.uri, endpoint_url=fault_proxy.url, credentials=Credentials(anonymous=True)).stat("x")
        assert "authorization" not in fault_proxy.seen[0].headers

    def test_a_role_is_assumed(self, s3_bucket: Bucket, fault_proxy: FaultProxy) -> None:
        role = Credentials(role_arn="arn:aws:iam::123456789012:role/reader")
        store = S3Store(s3_bucket.uri, endpoint_url=fault_proxy.url, credentials=role)
        store.stat("x")
        assert [seen.method for seen in fault_proxy.seen] == ["POST", "HEAD"]
        assert "x-amz-security-token" in fault_proxy.seen[1].headers

    def test_an_unknown_profile(self, s3_bucket: Bucket) -> None:
        with pytest.raises(UnavailableError) as caught:
            S3Store(s3_bucket.uri, credentials=Credentials(profile="nobody"))
        assert caught.value.message == "no S3 client: The config profile (nobody) could not be found"
