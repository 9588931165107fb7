"""The real command with both sides on Azure: validate, plan, apply, again, new input, verify, read, remove."""

from __future__ import annotations

import json
import sys

from command import Command
from servers import Container, azure_container, azure_server, connection_string  # noqa: F401

SPEC = f"""\
version: 1
name: azure
handler: handlers:upper
source:
  uri: az://{{container}}/docs/**/*.jsonl
  credentials: {{{{secret: lake, connection_string: LAKE_CONNECTION}}}}
sink:
  uri: az://{{container}}/out/
  credentials: {{{{secret: lake, connection_string: LAKE_CONNECTION}}}}
image: {{{{python: "3.{sys.version_info.minor}"}}}}
"""
HANDLER = """\
def upper(record):
    return {"id": record["id"], "text": record["text"].upper()}
"""


def put_input(container: Container, name: str, ids: range) -> None:
    lines = [json.dumps({"id": n, "text": f"text {n}"}) for n in ids]
    container.client().upload_blob(f"docs/{name}", "\n".join(lines).encode())


def test_from_container_to_container(modalbatch: Command, work, azure_container: Container):  # noqa: F811
    (work / "azure.yaml").write_text(SPEC.format(container=azure_container.name))
    (work / "handlers.py").write_text(HANDLER)
    secret = modalbatch.home / "secrets/lake.env"
    secret.parent.mkdir(parents=True)
    secret.write_text(f"LAKE_CONNECTION={azure_container.connection_string}\n")
    put_input(azure_container, "a/1.jsonl", range(10))
    put_input(azure_container, "2.jsonl", range(10, 20))

    assert modalbatch("validate", "azure.yaml").code == 0
    plan = modalbatch("plan", "azure.yaml", "--detailed-exitcode")
    assert plan.code == 4, plan.err
    done = modalbatch("apply", "azure.yaml", "--json")
    assert (done.code, done.json.get("status")) == (0, "done"), done.err + done.out
    assert done.json["counts"]["out"] == 20
    again = modalbatch("apply", "azure.yaml", "--json")
    assert (again.code, again.json["status"]) == (0, "nothing_to_do"), again.err

    put_input(azure_container, "3.jsonl", range(20, 25))
    more = modalbatch("apply", "azure.yaml", "--json")
    assert (more.code, more.json["counts"]["in"]) == (0, 5), more.err
    assert modalbatch("verify", "azure.yaml").code == 0
    lines = modalbatch("cat", f"{azure_container.uri}out/").out.splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == list(range(25))
    assert {json.loads(line)["text"][:4] for line in lines} == {"TEXT"}
    account_key = azure_container.connection_string.partition("AccountKey=")[2].partition(";")[0].encode()
    client = azure_container.client()
    assert not any(account_key in client.download_blob(blob.name).readall() for blob in client.list_blobs())
    assert not any(account_key in path.read_bytes() for path in (modalbatch.home / "apps").rglob("*.py"))

    gone = modalbatch("rm", "azure.yaml", "--yes")
    assert gone.code == 0, gone.err
    assert [blob.name for blob in azure_container.client().list_blobs("out/")] == []
