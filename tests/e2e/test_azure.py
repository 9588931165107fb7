"""The real command with both sides on Azure: validate, plan, apply, again, new input, verify, read, remove."""

from __future__ import annotations

import json
import sys

from command import Command
from servers import Container, azure_container, azure_server, connection_string  # noqa: F401


def put_input(container: Container, name: str, ids: range) -> None:
    lines = [json.dumps({"id": n, "text": f"text {n}"}) for n in ids]
    container.client().upload_blob(f"docs/{name}", "\n".join(lines).encode())


def test_from_container_to_container(modalbatch: Command, example, work, azure_container: Container):  # noqa: F811
    spec = work / example("azure-to-azure")
    text = (
        spec.read_text().replace("modalbatch-in", azure_container.name).replace("modalbatch-out", azure_container.name)
    )
    # The Python of the tests, which is surely here.
    spec.write_text(text.replace("/docs/\n", "/out/\n") + f'image: {{python: "3.{sys.version_info.minor}"}}\n')
    secret = modalbatch.home / "secrets/lake.env"
    secret.parent.mkdir(parents=True)
    secret.write_text(f"LAKE_CONNECTION_STRING={azure_container.connection_string}\n")
    put_input(azure_container, "a/1.jsonl", range(10))
    put_input(azure_container, "2.jsonl", range(10, 20))

    assert modalbatch("validate", "azure-to-azure.yaml").code == 0
    plan = modalbatch("plan", "azure-to-azure.yaml", "--detailed-exitcode")
    assert plan.code == 4, plan.err
    done = modalbatch("apply", "azure-to-azure.yaml", "--json")
    assert (done.code, done.json.get("status")) == (0, "done"), done.err + done.out
    assert done.json["counts"]["out"] == 20
    again = modalbatch("apply", "azure-to-azure.yaml", "--json")
    assert (again.code, again.json["status"]) == (0, "nothing_to_do"), again.err

    put_input(azure_container, "3.jsonl", range(20, 25))
    more = modalbatch("apply", "azure-to-azure.yaml", "--json")
    assert (more.code, more.json["counts"]["in"]) == (0, 5), more.err
    assert modalbatch("verify", "azure-to-azure.yaml").code == 0
    lines = modalbatch("cat", f"{azure_container.uri}out/").out.splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == list(range(25))
    assert {json.loads(line)["text"][:4] for line in lines} == {"TEXT"}
    account_key = azure_container.connection_string.partition("AccountKey=")[2].partition(";")[0].encode()
    client = azure_container.client()
    assert not any(account_key in client.download_blob(blob.name).readall() for blob in client.list_blobs())
    assert not any(account_key in path.read_bytes() for path in (modalbatch.home / "apps").rglob("*.py"))

    gone = modalbatch("rm", "azure-to-azure.yaml", "--yes")
    assert gone.code == 0, gone.err
    assert [blob.name for blob in azure_container.client().list_blobs("out/")] == []
