"""A run whose store stops working in the middle: one clear line, exit code 75, nothing half-written, and it goes on.

The driver, worker and slots are the real ones, in this process and its children; the stores are real servers behind a
proxy. The real command under the same troubles is in `test_command_trouble.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fault_proxy import FaultProxy, Seen
from harness import Pool, module_path, run_job
from modalbatch.job import Handler, Job, Retries, Sink, Source
from modalbatch.names import is_ours, parse_manifest_name, parse_receipt_name
from modalbatch.sinks import open_sink
from servers import Bucket, Container

N_FILES = 6
HANDLER = """
import os

def work(record):
    fd = os.open({calls!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{{record['n']}}\\n".encode())
    os.close(fd)
    return {{"n": record["n"]}}
"""


class Place:
    """A job on a store behind a proxy, and the same job past the proxy."""

    def __init__(self, folder: Path, sink_uri: str, endpoint_url: str, proxy: FaultProxy, account: str = "") -> None:
        self.folder, self.proxy = folder, proxy
        self.calls_path = folder / "calls"
        (folder / "data").mkdir()
        (folder / "trouble_handler.py").write_text(HANDLER.format(calls=str(self.calls_path)))
        for n in range(N_FILES):
            (folder / f"data/{n}.jsonl").write_text(json.dumps({"n": n}) + "\n")
        self.plain = Job(
            name="trouble",
            handler=Handler(call="trouble_handler:work"),
            source=Source(uris=("data/*.jsonl",)),
            sink=Sink(uri=sink_uri, endpoint_url=endpoint_url),
            # Files stay splits of their own: one a packet.
            retries=Retries(max_retries=1, initial_delay_s=0.01),
        )
        url = f"{proxy.url}{account}"
        self.troubled = replace(self.plain, sink=replace(self.plain.sink, endpoint_url=url))

    def run(self, job: Job, run_id: str) -> dict:
        # An engine of its own: what an attempt left is known to be dead when the next run sweeps.
        return run_job(job, self.folder, run_id=run_id, engine={"kind": "local", "home": "here", "id": run_id})

    def calls(self) -> Counter[str]:
        return Counter(self.calls_path.read_text().split()) if self.calls_path.exists() else Counter()

    def sink(self):
        return open_sink(self.plain, {"": f"{self.folder}/"})

    def check_nothing_half(self) -> set[str]:
        """Nothing is published, and what is committed is whole; the receipts."""
        sink = self.sink()
        entries = {entry.name: entry.size_bytes for entry in sink.store.list()}
        assert not [name for name in entries if parse_manifest_name(name) or name == "_SUCCESS"]
        receipts = {name for name in entries if parse_receipt_name(name)}
        for name in receipts:
            receipt = sink.read_receipt(name)
            assert {part.name: part.bytes for part in receipt.parts}.items() <= entries.items()
        return receipts

    def check_continues(self, receipts: set[str], before: Counter[str]) -> None:
        """The next run does what is missing and nothing twice; the result is whole, and only that is left."""
        outcome = self.run(self.plain, "again")
        assert outcome["exit_code"] == 0, outcome
        assert outcome["splits"]["kept"] == len(receipts)
        assert outcome["splits"]["done"] == N_FILES - len(receipts)
        done = sum((self.calls() - before).values())
        assert done == N_FILES - len(receipts)
        sink = self.sink()
        live = dict(sink.live(sink.newest()))
        parts = {part.name for receipt in live.values() for part in receipt.parts}
        assert {entry.name for entry in sink.store.list() if is_ours(entry.name)} == parts
        records = [json.loads(line)["n"] for name in parts for line in sink.store.read(name).splitlines()]
        assert sorted(records) == list(range(N_FILES))


@pytest.fixture
def s3(tmp_path: Path, s3_bucket: Bucket, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return Place(tmp_path, f"{s3_bucket.uri}out/", s3_bucket.endpoint_url, fault_proxy)


@pytest.fixture
def azure(tmp_path: Path, azure_container: Container, azure_proxy: FaultProxy) -> Place:
    account = "/" + azure_container.endpoint_url.rpartition("/")[2]
    return Place(tmp_path, f"{azure_container.uri}out/", azure_container.endpoint_url, azure_proxy, account)


def after_receipts(n: int):
    """From the moment when so many receipts were written."""

    def begun(seen: list[Seen]) -> bool:
        return (
            sum(item.method == "PUT" and "/receipts/" in item.path and "probe-" not in item.path for item in seen) >= n
        )

    return begun


EXPIRED = {"s3": "ExpiredToken", "azure": "AuthenticationFailed"}
NO_CONTAINER = {"s3": "NoSuchBucket", "azure": "ContainerNotFound"}


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_credentials_expire_in_the_middle(kind: str, request: pytest.FixtureRequest) -> None:
    """F44: exit code 75, and the error says what is denied."""
    place: Place = request.getfixturevalue(kind)
    place.proxy.add("status", status=403, code=EXPIRED[kind], times=None, when=after_receipts(2))
    outcome = place.run(place.troubled, "first")
    assert outcome["exit_code"] == 75, outcome
    assert "access denied: cannot " in outcome["error"]["message"]
    assert EXPIRED[kind] in outcome["error"]["message"]
    assert outcome["error"]["hint"].startswith("check the credentials")
    assert "\n" not in outcome["error"]["message"]
    before = place.calls()
    receipts = place.check_nothing_half()
    assert len(receipts) >= 2
    place.check_continues(receipts, before)


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_the_container_is_gone_in_the_middle(kind: str, request: pytest.FixtureRequest) -> None:
    """F46: exit code 75; when it is there again, the run goes on."""
    place: Place = request.getfixturevalue(kind)
    place.proxy.add("status", status=404, code=NO_CONTAINER[kind], times=None, when=after_receipts(2))
    outcome = place.run(place.troubled, "first")
    assert outcome["exit_code"] == 75, outcome
    assert "does not exist" in outcome["error"]["message"]
    assert outcome["error"]["hint"].startswith("create it, or check `uri`")
    before = place.calls()
    place.check_continues(place.check_nothing_half(), before)


def test_a_bucket_deleted_in_the_middle(s3: Place, s3_bucket: Bucket) -> None:
    """F46: really deleted, with all that was in it; a new one of that name gets everything."""
    client = s3_bucket.client()

    def delete(seen: list[Seen]) -> bool:
        if after_receipts(2)(seen) and client.list_buckets()["Buckets"]:
            for item in client.list_objects_v2(Bucket=s3_bucket.name).get("Contents", []):
                client.delete_object(Bucket=s3_bucket.name, Key=item["Key"])
            client.delete_bucket(Bucket=s3_bucket.name)
            fault.times = 0
        return False

    fault = s3.proxy.add("status", when=delete)
    outcome = s3.run(s3.troubled, "first")
    assert outcome["exit_code"] == 75, outcome
    assert f"the bucket `{s3_bucket.name}` does not exist" in outcome["error"]["message"]
    client.create_bucket(Bucket=s3_bucket.name)
    s3.check_continues(set(), s3.calls())


@pytest.mark.parametrize("kind", ["error", "gone"])
def test_the_store_fails_from_a_moment_on(s3: Place, kind: str) -> None:
    """F35: 500 for ever, or nobody there any more."""

    if kind == "error":
        s3.proxy.add("status", status=500, code="InternalError", times=None, when=after_receipts(2))
    else:
        s3.proxy.add("reset", times=None, when=after_receipts(2))
    outcome = s3.run(s3.troubled, "first")
    assert outcome["exit_code"] == 75, outcome
    assert "cannot " in outcome["error"]["message"]
    assert outcome["error"]["hint"] == "check the network and `endpoint_url`"
    assert "\n" not in outcome["error"]["message"]
    before = s3.calls()
    receipts = s3.check_nothing_half()
    assert len(receipts) >= 2
    s3.check_continues(receipts, before)


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        ({"kind": "status", "status": 500, "code": "InternalError"}, 3),
        ({"kind": "status", "status": 503, "code": "SlowDown"}, 12),
        ({"kind": "reset"}, 8),
        ({"kind": "lose_reply"}, 8),
        ({"kind": "half"}, 4),
        ({"kind": "status", "status": 409, "code": "ConditionalRequestConflict", "method": "PUT"}, 4),
    ],
    ids=lambda value: value["kind"] + str(value.get("status", "")) if isinstance(value, dict) else str(value),
)
def test_trouble_that_passes_is_not_noticed(
    s3: Place, monkeypatch: pytest.MonkeyPatch, fault: dict, times: int
) -> None:
    """F33 F34 F36 F37 F38: the run ends as if nothing had been, and each record is there once."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    for n in range(times):
        s3.proxy.add(**fault, when=lambda seen, n=n: len(seen) > 10 + 5 * n)
    outcome = s3.run(s3.troubled, "first")
    assert outcome["exit_code"] == 0, outcome
    assert sum(item.n_hits for item in s3.proxy.faults) >= 3
    sink = s3.sink()
    parts = [part for _, receipt in sink.live(sink.newest()) for part in receipt.parts]
    records = [json.loads(line)["n"] for part in parts for line in sink.store.read(part.name).splitlines()]
    assert sorted(records) == list(range(N_FILES))


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_receipts_alone_are_denied(kind: str, request: pytest.FixtureRequest) -> None:
    """F43: known before any record was processed."""
    place: Place = request.getfixturevalue(kind)
    code = {"s3": "AccessDenied", "azure": "AuthorizationPermissionMismatch"}[kind]
    place.proxy.add("status", path="receipts", method="PUT", status=403, code=code, times=None)
    outcome = place.run(place.troubled, "first")
    assert outcome["exit_code"] == 75, outcome
    assert outcome["error"]["message"].startswith(f"access denied: cannot write `{place.plain.sink.uri}_modalbatch/rec")
    assert place.calls() == {}
    assert [entry.name for entry in place.sink().store.list()] == []


def test_a_store_that_overwrites(s3: Place) -> None:
    """F45: refused before any record was processed; accepted when the spec says so, and then it verifies."""
    s3.proxy.add("strip", method="PUT", header="If-None-Match", times=None)
    outcome = s3.run(s3.troubled, "first")
    assert outcome["exit_code"] == 2, outcome
    assert "ignores `If-None-Match`" in outcome["error"]["message"]
    assert outcome["error"]["hint"] == "set `delivery: at_least_once`, or use a store with conditional writes"
    assert s3.calls() == {}
    accepted = replace(s3.troubled, delivery="at_least_once")
    assert s3.run(accepted, "second")["exit_code"] == 0
    assert s3.run(accepted, "third")["splits"]["done"] == 0
    assert s3.calls() == {str(n): 1 for n in range(N_FILES)}


def test_a_store_that_does_not_know_the_condition(s3: Place) -> None:
    """F45: it answers 501 to conditional requests; without them the job runs."""
    s3.proxy.add("status", method="PUT", status=501, code="NotImplemented", times=1)
    outcome = s3.run(s3.troubled, "first")
    assert (outcome["exit_code"], outcome["error"]["hint"][:28]) == (2, "set `delivery: at_least_once")
    accepted = replace(s3.troubled, delivery="at_least_once")
    assert s3.run(accepted, "second")["exit_code"] == 0
    assert not any("if-none-match" in seen.headers for seen in s3.proxy.seen[s3.proxy.faults[0].n_hits + 20 :])


def test_a_part_that_goes_before_the_manifest(s3: Place) -> None:
    """F49 S: nobody publishes it; its split is done again."""
    sink, gone = s3.sink(), []

    class Thief(Pool):
        """Somebody deletes a part once every receipt is written."""

        async def map(self, feed, **options):
            n_done = 0
            async for answer in super().map(feed, **options):
                n_done += 1
                if n_done == N_FILES and not gone:
                    gone.extend(entry.name for entry in list(sink.store.list("part-"))[:1])
                    sink.delete(gone)
                yield answer

    with module_path(s3.folder):
        pool = Thief(s3.plain)
    try:
        outcome = run_job(s3.plain, s3.folder, run_id="robbed", pool=pool)
    finally:
        pool.close()
    assert outcome["exit_code"] == 0, outcome
    live = dict(sink.live(sink.newest()))
    names = [part.name for receipt in live.values() for part in receipt.parts]
    assert gone and gone[0] not in names
    records = [json.loads(line)["n"] for name in names for line in sink.store.read(name).splitlines()]
    assert sorted(records) == list(range(N_FILES))
    assert sum(s3.calls().values()) == N_FILES + 1
