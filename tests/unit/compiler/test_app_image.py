"""The image chain, call by call."""

import json
import re
from pathlib import Path

import pytest

from modalbatch.compiler import image, place
from modalbatch.compiler.layout import flat
from modalbatch.errors import UsageError
from modalbatch.job import Handler, Image, Job, Sink, Source
from modalbatch.stores import OBJECT_STORES

RUNTIME = '.uv_pip_install("backports.zstd==1.8.0", "isal==1.9.1", "msgspec==0.22.0", "smart-open==9.0.2")'


def job(sink: str = "out/", **given: object) -> Job:
    return Job(
        name="j",
        handler=Handler(call="handlers.main:run"),
        source=Source(uris=("a.jsonl",)),
        sink=Sink(uri=sink),
        image=Image(**given),
    )


def chain(**given: object) -> str:
    """What stands between the base and the runtime."""
    text = flat(image.worker_image(job(**given)))
    before, _, after = text.partition(RUNTIME)
    # A pipe's module is mounted too: what it does to the image decides data.
    modules = ["modalbatch", "handlers", *([str(given["pipe"]).partition(":")[0]] if "pipe" in given else [])]
    assert after.endswith(f".add_local_python_source({', '.join(json.dumps(name) for name in modules)})")
    return before.removeprefix('modal.Image.debian_slim(python_version="3.12")')


def test_the_runtime_comes_last_then_local_source() -> None:
    base, source = (
        'modal.Image.debian_slim(python_version="3.12")',
        '.add_local_python_source("modalbatch", "handlers")',
    )
    expected = base + RUNTIME + source
    assert flat(image.worker_image(job())) == expected
    assert flat(image.driver_image(job(apt=("git",)))) == expected


@pytest.mark.parametrize(
    ("sink", "package"),
    [("s3://b/", "boto3"), ("az://c/", "azure-storage-blob"), ("az://c/", "azure-identity"),
     ("gs://b/", "google-cloud-storage")],
)  # fmt: skip
def test_the_client_of_a_store_only_where_a_side_is_on_it(sink: str, package: str) -> None:
    assert package not in flat(image.worker_image(job()))
    assert f'"{package}==' in flat(image.worker_image(job(sink=sink)))


def test_every_object_store_has_a_form_and_a_client() -> None:
    assert set(OBJECT_STORES) == set(image.STORE_PACKAGES) == set(place.OBJECT_STORES)


def test_boto3_only_where_a_side_is_on_s3() -> None:
    assert "boto3" not in flat(image.worker_image(job()))
    assert '"boto3==1.44.5"' in flat(image.worker_image(job(sink="s3://b/")))
    assert '"boto3==1.44.5"' in flat(image.driver_image(job(sink="s3://b/")))


def test_runtime_packages_are_those_of_the_lock() -> None:
    """No other copy of the versions: what the tests run with is what containers get."""
    lock = (Path(__file__).resolve().parents[3] / "uv.lock").read_text()
    locked = dict(re.findall(r'^name = "([^"]+)"\nversion = "([^"]+)"', lock, re.MULTILINE))
    for packages in (image.RUNTIME_PACKAGES, *image.STORE_PACKAGES.values()):
        for name, version in packages.items():
            assert locked[name.replace(".", "-")] == version


@pytest.mark.parametrize(
    ("given", "calls"),
    [
        ({"apt": ("git", "curl")}, '.apt_install("git", "curl")'),
        ({"pip": ({"packages": ["a==1"], "pre": True},)}, '.uv_pip_install("a==1", pre=True)'),
        (
            {"requirements": {"path": "deps/r.txt", "sha256": "0"}},
            '.uv_pip_install(requirements=[str(SPEC_DIR / "deps/r.txt")])',
        ),
        ({"requirements": {"uv_sync": ".", "sha256": "0"}}, ".uv_sync(str(SPEC_DIR))"),
        ({"requirements": {"uv_sync": "../x", "sha256": "0"}}, '.uv_sync(str(SPEC_DIR / "../x"))'),
        ({"run": ({"command": "make"},)}, '.run_commands("make")'),
        (
            {"run": ({"command": "m", "secrets": ["s"], "volumes": {"/c": "v"}, "gpu": "T4", "env": {"A": "1"}},)},
            '.run_commands("m", env={"A": "1"}, gpu="T4", secrets=[modal.Secret.from_name("s")], '
            'volumes={"/c": modal.Volume.from_name("v", create_if_missing=True)})',
        ),
        ({"env": {"B": "2", "A": "1"}}, '.env({"A": "1", "B": "2"})'),
        ({"workdir": "/app"}, '.workdir("/app")'),
        ({"pipe": "images:more"}, '.pipe(modalbatch.pipe("images:more"))'),
        (
            {"apt": ("git",), "pip": ({"packages": ["a"]},), "run": ({"command": "m"},), "env": {"A": "1"},
             "workdir": "/w", "layers": ({"apt_install": ["x"]},), "pipe": "i:f"},
            '.apt_install("git").uv_pip_install("a").run_commands("m").env({"A": "1"}).workdir("/w")'
            '.apt_install("x").pipe(modalbatch.pipe("i:f"))',
        ),
    ],
)  # fmt: skip
def test_keys_of_the_spec(given: dict, calls: str) -> None:
    assert chain(**given) == calls


@pytest.mark.parametrize(
    ("layer", "call"),
    [
        ({"apt_install": ["git"]}, '.apt_install("git")'),
        ({"workdir": ["/x"]}, '.workdir("/x")'),
        ({"workdir": "/x"}, '.workdir("/x")'),
        ({"env": {"A": "1"}}, '.env({"A": "1"})'),
        ({"env": [{"A": "1"}]}, '.env({"A": "1"})'),
        ({"entrypoint": []}, ".entrypoint([])"),
        ({"cmd": ["python", "-V"]}, '.cmd(["python", "-V"])'),
        ({"cmd": [["python", "-V"]]}, '.cmd(["python", "-V"])'),
        ({"apt_install": {"packages": ["git"], "force_build": True}}, '.apt_install("git", force_build=True)'),
        ({"apt_install": {"args": ["git"], "kwargs": {"gpu": "T4"}}}, '.apt_install("git", gpu="T4")'),
        (
            {"run_commands": {"args": ["m"], "kwargs": {"secrets": "s"}}},
            '.run_commands("m", secrets=[modal.Secret.from_name("s")])',
        ),
        (
            {"pip_install_from_requirements": ["r.txt"]},
            '.pip_install_from_requirements(str(SPEC_DIR / "r.txt"))',
        ),
        (
            {"poetry_install_from_file": {"args": [], "kwargs": {"poetry_pyproject_toml": "p.toml", "without": ["x"]}}},
            '.poetry_install_from_file(poetry_pyproject_toml=str(SPEC_DIR / "p.toml"), without=["x"])',
        ),
        (
            {"add_local_dir": {"args": [], "kwargs": {"local_path": "d", "remote_path": "/d", "copy": True}}},
            '.add_local_dir(copy=True, local_path=SPEC_DIR / "d", remote_path="/d")',
        ),
        ({"uv_pip_install": {"requirements": ["r.txt"]}}, '.uv_pip_install(requirements=[str(SPEC_DIR / "r.txt")])'),
    ],
)
def test_layers(layer: dict, call: str) -> None:
    assert flat(image.layer(layer)) == call


def test_mounted_files_come_after_everything_that_is_built() -> None:
    given = image.worker_image(
        job(
            layers=({"add_local_file": ["a", "/"]}, {"add_local_file": {"args": ["b", "/"], "kwargs": {"copy": True}}}),
            add_local=({"local": "d/", "remote": "/d", "sha256": "0"}, {"local": "f", "remote": "/f", "sha256": "0"}),
        )
    )  # fmt: skip
    assert [item.head for item in given.calls] == [
        ".add_local_file(", ".uv_pip_install(", ".add_local_dir(", ".add_local_file(", ".add_local_file(",
        ".add_local_python_source(",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "call"),
    [
        ({"registry": "a/b:1"}, 'modal.Image.from_registry("a/b:1")'),
        (
            {"registry": "a/b:1", "secret": "s", "add_python": "3.12"},
            'modal.Image.from_registry("a/b:1", add_python="3.12", secret=modal.Secret.from_name("s"))',
        ),
        ({"ecr": "a:1", "secret": "s"}, 'modal.Image.from_aws_ecr("a:1", secret=modal.Secret.from_name("s"))'),
        (
            {"gcp": "a:1", "secret": "s"},
            'modal.Image.from_gcp_artifact_registry("a:1", secret=modal.Secret.from_name("s"))',
        ),
        ({"name": "team-base"}, 'modal.Image.from_name("team-base")'),
        (
            {"dockerfile": {"path": "Dockerfile"}},
            'modal.Image.from_dockerfile(SPEC_DIR / "Dockerfile", context_dir=SPEC_DIR)',
        ),
        (
            {"dockerfile": {"path": "d/Dockerfile", "context_dir": "d", "build_args": {"A": "1"}}},
            'modal.Image.from_dockerfile(SPEC_DIR / "d/Dockerfile", build_args={"A": "1"}, context_dir=SPEC_DIR / "d")',
        ),
    ],
)
def test_bases(base: dict, call: str) -> None:
    first, rest = image.base(Image(base=base))
    assert (flat(first), rest) == (call, [])


def test_an_entrypoint_is_replaced_right_after_the_base() -> None:
    assert flat(image.base(Image(base={"registry": "a", "entrypoint": []}))[1][0]) == ".entrypoint([])"


@pytest.mark.parametrize(
    "given", [{}, {"python": "3.11"}, {"env": {"A": "1"}}, {"workdir": "/x"}, {"source": ("lib",)}]
)
def test_a_plain_image_is_the_drivers_too(given: dict) -> None:
    assert image.is_plain(Image(**given))


@pytest.mark.parametrize("given", [{"base": {"name": "x"}}, {"apt": ("git",)}, {"pipe": "a:b"}, {"layers": ({},)}])
def test_any_other_image_is_not(given: dict) -> None:
    assert not image.is_plain(Image(**given))


@pytest.mark.parametrize("method", ["run_function", "pipe", "__class__", "x;import os", "apt_install("])
def test_only_methods_of_the_table_become_code(method: str) -> None:
    with pytest.raises(UsageError, match="cannot be a layer"):
        image.layer({method: []})


@pytest.mark.parametrize("name", ["a b", "x=1, y", "class", "é", ""])
def test_only_identifiers_become_parameters(name: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a parameter"):
        image.layer({"apt_install": {"args": ["git"], "kwargs": {name: 1}}})


@pytest.mark.parametrize("base", ["fedora", {}, {"what": 1}])
def test_an_unknown_base_is_refused(base: object) -> None:
    with pytest.raises(UsageError, match=r"`image\.base` names none of `debian_slim`, `registry`"):
        image.base(Image(base=base))
