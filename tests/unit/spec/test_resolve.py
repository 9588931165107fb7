"""Specs as jobs: short forms, units, defaults; and that no key is forgotten."""

import dataclasses
import json

import pytest
import yaml

from modalbatch import job
from modalbatch.compiler.place import OBJECT_STORES
from modalbatch.compiler.resolve import resolve
from modalbatch.errors import SpecErrors
from modalbatch.job import Credentials, Job, OnError, SecretRef, Split, VolumeRef
from modalbatch.spec import load_spec, schema

HANDLERS = """
def count(record):
    return record


class Embedder:
    def __init__(self, model="m"):
        self.model = model

    def __call__(self, record):
        return record
"""


@pytest.fixture
def make(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_text("{}\n")
    (tmp_path / "handlers.py").write_text(HANDLERS)
    (tmp_path / "lib.py").write_text("")
    (tmp_path / "images.py").write_text("def add_flash_attn(image):\n    return image\n")
    (tmp_path / "Dockerfile").write_text("FROM a\n")
    (tmp_path / "requirements.txt").write_text("a==1\n")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/a.txt").write_text("hello")
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "uv.lock").write_text("")

    def make(**keys) -> Job:
        tree = {"version": 1, "name": "j", "handler": "handlers:count", "source": "data/*.jsonl", "sink": "out/"}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump({**tree, **keys}, sort_keys=False))
        return resolve(load_spec(tmp_path / "spec.yaml"))

    return make


def test_a_minimal_spec_says_no_more_than_it_must(make):
    assert make().to_json() == {
        "name": "j",
        "handler": {"call": "handlers:count"},
        "source": {"uris": ["data/*.jsonl"]},
        "sink": {"uri": "out/"},
    }


def test_quantities_become_numbers_in_modals_units(make):
    compute = make(
        memory="8GiB", ephemeral_disk="600GiB", timeout="10m", startup_timeout="1.5m", scaledown_window="2m", cpu=[1, 4]
    ).compute
    assert (compute.memory_mib, compute.ephemeral_disk_mib) == ((8192,), 614400)
    assert (compute.timeout_s, compute.startup_timeout_s, compute.scaledown_window_s) == (600, 90, 120)
    assert compute.cpu == (1, 4)
    assert make(memory=[512, "1GiB"]).compute.memory_mib == (512, 1024)
    assert make(timeout=90).compute.timeout_s == 90


def test_a_gpu_lowers_the_default_of_containers(make):
    assert make().compute.max_containers == 100
    assert make(gpu="h100:2").compute.max_containers == 10
    assert make(gpu=["H100", "a100-80gb"]).compute.gpu == ("H100", "A100-80GB")
    assert make(gpu="T4", max_containers=3).compute.max_containers == 3


def test_short_forms_are_long_forms(make):
    assert make(retries=5) == make(retries={"max_retries": 5})
    assert make(handler={"call": "handlers:count"}) == make()
    assert make(source={"uri": ["data/*.jsonl"]}) == make(source=["data/*.jsonl"]) == make()
    assert make(sink={"uri": "./out"}) == make()
    assert make(secrets="hf").secrets == (SecretRef(name="hf"),)
    assert make(secrets=[{"name": "hf"}]).secrets == (SecretRef(name="hf"),)
    assert make(region="us-east").compute.region == ("us-east",)
    assert make(retry_on="a.B").retry_on == ("a.B",)
    assert make(volumes={"/m": "v"}).volumes == {"/m": VolumeRef(name="v")}
    assert make(on_error="drop").on_error == OnError(record="drop")
    assert make(image={"source": "lib"}).image.source == ("lib",)
    assert make(image={"run": "ls"}).image.run == ({"command": "ls"},)


def test_a_share_is_no_count(make):
    assert make(on_error={"max_failed": "1.5%"}).on_error == OnError(max_failed_share=0.015)
    assert make(on_error={"max_failed": 10}).on_error == OnError(max_failed=10)


def test_places_are_logical_and_in_their_shortest_form(make, tmp_path):
    assert make(source="./data/../data/*.jsonl", sink="./out//x").source.uris == ("data/*.jsonl",)
    assert make(sink="./out//x").sink.uri == "out/x/"
    assert make(sink=f"{tmp_path}/out").sink.uri == f"{tmp_path}/out/"
    assert make(sink="s3://lake/out").sink.uri == "s3://lake/out/"
    assert make(sink="volume://name").sink.uri == "volume://name/"
    assert make(sink="volume://name/a//b/").sink.uri == "volume://name/a/b/"
    assert make(source={"uri": "data/", "format": "jsonl"}).source.uris == ("data/",)


def test_a_split_is_a_size_or_a_number_of_files(make):
    def split(rule):
        return make(source={"uri": "data/*.jsonl", "split": rule}).source.split

    assert split("auto") == Split()
    assert split("16MiB") == Split(bytes=16 << 20)
    assert split(65536) == Split(bytes=65536)
    assert split({"files": 7}) == Split(files=7)


def test_credentials_name_variables_of_a_secret(make):
    names = {"secret": "r2", "access_key_id": "A", "secret_access_key": "B", "session_token": "C"}
    given = make(sink={"uri": "s3://lake/x/", "credentials": names}).sink.credentials
    assert given == Credentials(secret="r2", access_key_id="A", secret_access_key="B", session_token="C")
    assert make(source={"uri": "s3://lake/x.jsonl", "credentials": "anonymous"}).source.credentials.anonymous


def test_neighbouring_packages_are_one_call(make):
    torch = {"packages": ["torch"], "index_url": "https://x.example", "secrets": "s"}
    assert make(image={"pip": ["a", "b", torch, "c"]}).image.pip == (
        {"packages": ["a", "b"]},
        {"packages": ["torch"], "index_url": "https://x.example", "secrets": ["s"]},
        {"packages": ["c"]},
    )


def test_layers_keep_positional_arguments_apart_from_keywords(make):
    layers = [
        {"apt_install": ["git"]},
        {"workdir": "/x"},
        {"env": {"A": "1"}},
        {"run_commands": {"commands": ["ls", "pwd"], "gpu": "T4"}},
        {"pip_install": {"packages": "torch"}},
        {"uv_sync": {"uv_project_dir": "."}},
    ]
    assert make(image={"layers": layers}).image.layers == (
        {"apt_install": ["git"]},
        {"workdir": ["/x"]},
        {"env": {"A": "1"}},
        {"run_commands": {"args": ["ls", "pwd"], "kwargs": {"gpu": "T4"}}},
        {"pip_install": {"args": ["torch"], "kwargs": {}}},
        {"uv_sync": {"args": [], "kwargs": {"uv_project_dir": "."}}},
    )


def test_files_stand_in_the_job_by_their_content(make, tmp_path):
    def build():
        return make(
            image={
                "base": {"dockerfile": "Dockerfile"},
                "requirements": "./requirements.txt",
                "add_local": {"./prompts": "/app/prompts", "requirements.txt": "/app/r.txt"},
            }
        ).image

    first = build()
    assert first.base == {"dockerfile": {"path": "Dockerfile"}}
    assert [entry["local"] for entry in first.add_local] == ["prompts/", "requirements.txt"]
    (tmp_path / "Dockerfile").write_bytes(b"FROM a\r\n")
    (tmp_path / "requirements.txt").write_bytes(b"a==1\r\n")
    assert build().base_sha256 == first.base_sha256
    assert build().requirements == first.requirements
    (tmp_path / "prompts/a.txt").write_text("other")
    (tmp_path / "requirements.txt").write_text("a==2\n")
    assert build().requirements["path"] == "requirements.txt"
    assert build().requirements["sha256"] != first.requirements["sha256"]
    assert build().add_local[0]["sha256"] != first.add_local[0]["sha256"]


def test_a_uv_project_is_its_two_files(make, tmp_path):
    first = make(image={"requirements": {"uv_sync": "."}}).image.requirements
    (tmp_path / "uv.lock").write_text("x")
    second = make(image={"requirements": {"uv_sync": "."}}).image.requirements
    assert first["uv_sync"] == second["uv_sync"] == "."
    assert first["sha256"] != second["sha256"]


def test_a_source_that_matches_nothing_may_be_allowed(make):
    assert make(source={"uri": "none/*.jsonl", "allow_empty": True}).source.allow_empty


def test_a_job_survives_its_json(make):
    made = make(gpu="H100", retries={"max_delay": "9s"}, volumes={"/m": {"bucket": "s3://lake/ref/"}}, secrets=["a"])
    assert Job.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_contradictions_are_told_with_the_other_mistakes(make):
    with pytest.raises(SpecErrors) as caught:
        make(gpu="H1000", min_containers=5, max_containers=3)
    assert [error.message for error in caught.value.errors] == [
        "unknown GPU `H1000`",
        "`min_containers` is above `max_containers`, which is 3",
    ]


#: Keys that need company, or whose example is their default.
COMPANY = {
    "image.base": {"base": {"registry": "a"}},
    "image.base.registry": {"base": {"registry": "a"}},
    "image.base.name": {"base": {"name": "a"}},
    "image.base.ecr": {"base": {"ecr": "a", "secret": "s"}},
    "image.base.gcp": {"base": {"gcp": "a", "secret": "s"}},
    "image.base.secret": {"base": {"registry": "a", "secret": "s"}},
    "image.base.add_python": {"base": {"registry": "a", "add_python": "3.12"}},
    "image.base.entrypoint": {"base": {"registry": "a", "entrypoint": []}},
    "image.base.setup_dockerfile_commands": {"base": {"registry": "a", "setup_dockerfile_commands": ["RUN x"]}},
    "image.base.dockerfile": {"base": {"dockerfile": "Dockerfile"}},
    "image.base.dockerfile.path": {"base": {"dockerfile": {"path": "Dockerfile"}}},
    "image.base.dockerfile.context_dir": {"base": {"dockerfile": {"path": "Dockerfile", "context_dir": "data"}}},
    "image.base.dockerfile.build_args": {"base": {"dockerfile": {"path": "Dockerfile", "build_args": {"A": "1"}}}},
    "image.requirements.uv_sync": {"requirements": {"uv_sync": "."}},
    "image.source": {"source": ["lib"]},
}
S3 = {"uri": "s3://lake/in/*.jsonl"}
SPECIAL = {
    "version": None,  # checked, and the same in every job
    "source.format": None,  # one format yet
    "sink.format": None,
    "image.pip": {"image": {"pip": ["a"]}},
    "image.run": {"image": {"run": ["ls"]}},
    "volumes.bucket": {"volumes": {"/m": {"bucket": "s3://lake/ref/"}}},
    "source.split.files": {"source": {"uri": "data/*.jsonl", "split": {"files": 100}}},
    "source": {"source": ["s3://lake/a.jsonl"]},
    "source.uri": {"source": {"uri": "s3://lake/a.jsonl"}},
    "sink": {"sink": "other/"},
    "sink.uri": {"sink": {"uri": "other/"}},
    "handler": {"handler": "handlers:Embedder"},
    "handler.call": {"handler": {"call": "handlers:Embedder"}},
    "handler.args": {"handler": {"call": "handlers:Embedder", "args": {"model": "x"}}},
    "retries": {"retries": 4},
    "retries.initial_delay": {"retries": {"initial_delay": "2s"}},
    "retries.backoff_coefficient": {"retries": {"backoff_coefficient": 3}},
    "retries.max_delay": {"retries": {"max_delay": "30s"}},
    "max_containers": {"max_containers": 7},
    "min_containers": {"min_containers": 1},
    "buffer_containers": {"buffer_containers": 1},
    "scaledown_window": {"scaledown_window": 30},
    "timeout": {"timeout": "20m"},
    "source.allow_empty": {"source": {"uri": "data/*.jsonl", "allow_empty": True}},
    "secrets.name": {"secrets": [{"name": "hf"}]},
    "secrets.required_keys": {"secrets": [{"name": "hf", "required_keys": ["A"]}]},
}


def with_key(key: str, node: dict):
    """Keys of a spec that set `key`, and the same spec without it (None: the minimal one)."""
    parts = key.split(".")
    example = node["examples"][0]
    if key in SPECIAL:
        return SPECIAL[key], None
    if key in COMPANY:
        return {"image": COMPANY[key]}, None
    if len(parts) == 1:
        return {key: example}, None
    if parts[:2] == ["image", "pip"]:
        return {"image": {"pip": [{"packages": ["a"], parts[2]: example}]}}, None
    if parts[:2] == ["image", "run"]:
        return {"image": {"run": [{"command": "ls", parts[2]: example}]}}, None
    if parts[0] == "image":
        return {"image": {parts[1]: example}}, None
    if parts[0] == "volumes":
        kind = {"bucket": "s3://lake/ref/"} if parts[1] == "credentials" else {"name": "v"}
        return {"volumes": {"/m": {**kind, parts[1]: example}}}, {"volumes": {"/m": kind}}
    if parts[1] == "credentials" or parts[1] == "endpoint_url":
        name = "a.jsonl" if parts[0] == "source" else "out/"
        scheme = next((scheme for scheme, store in OBJECT_STORES.items() if parts[-1] in store.keys), "s3")
        uri = {"uri": f"{scheme}://lake/{name}"}
        if len(parts) == 2:
            return {parts[0]: {**uri, parts[1]: example}}, {parts[0]: uri}
        if scheme != "s3":
            base = {"secret": "s"}
            named = {**base, parts[2]: example}
            return {parts[0]: {**uri, "credentials": named}}, {parts[0]: {**uri, "credentials": base}}
        keys = {"access_key_id": "K", "secret_access_key": "V"} if parts[2].endswith(("_id", "_key", "_token")) else {}
        base = {"secret": "s", **keys} if keys else {}
        return {parts[0]: {**uri, "credentials": {**base, parts[2]: example}}}, {parts[0]: {**uri, "credentials": base}}
    short = {"handler": {"call": "handlers:count"}, "source": {"uri": "data/*.jsonl"}, "sink": {"uri": "out/"}}
    return {parts[0]: {**short.get(parts[0], {}), parts[1]: example}}, None


@pytest.mark.parametrize(("key", "node"), list(schema.walk()), ids=[key for key, _ in schema.walk()])
def test_every_key_of_the_schema_decides_something(make, key, node):
    given, without = with_key(key, node)
    if given is None:
        assert key in ("version", "source.format", "sink.format")
        return
    assert make(**given) != make(**(without or {}))


def test_every_field_of_a_job_can_be_set_by_a_spec(make):
    made = make(
        **{
            "description": "d", "tags": {"a": "b"}, "environment": "prod", "retries": 1, "retry_on": "a.B",
            "secrets": "s", "env": {"A": "1"}, "volumes": {"/m": "v"}, "on_error": "drop", "delivery": "at_least_once",
            "image": {"apt": ["git"]}, "gpu": "T4",
        }
    )  # fmt: skip
    for item in dataclasses.fields(job.Job):
        default = item.default if item.default is not dataclasses.MISSING else item.default_factory
        default = default() if callable(default) and item.default is dataclasses.MISSING else default
        assert getattr(made, item.name) != default, item.name
