"""Decorators, secrets and volumes: which keyword of Modal a field of the job is."""

import pytest

from modalbatch.compiler import expressions, objects
from modalbatch.compiler.layout import flat
from modalbatch.errors import UsageError
from modalbatch.job import (
    Compute,
    Credentials,
    Handler,
    Image,
    Job,
    SecretRef,
    Sink,
    Source,
    VolumeRef,
    data_volume,
    volume_paths,
)


def job(*, source: str = "s3://in/", sink: str = "s3://out/", name: str = "j", **given: object) -> Job:
    given = {"handler": Handler(call="h:f"), **given}
    return Job(name=name, source=Source(uris=(source,)), sink=Sink(uri=sink), **given)


def names(found: Job) -> dict[str, str]:
    return {name: flat(node) for name, node in expressions.shared(found).items()}


def worker(found: Job) -> str:
    return flat(expressions.worker_call(found, expressions.shared(found)))


def test_a_job_that_needs_nothing_shares_only_the_image() -> None:
    assert list(names(job())) == ["image"]
    assert worker(job()) == "@app.cls(image=image, timeout=600, retries=0, max_containers=100, scaledown_window=60)"
    assert flat(expressions.function_call(expressions.shared(job()), 60)) == "@app.function(image=image, timeout=60)"


@pytest.mark.parametrize(
    ("compute", "keywords"),
    [
        ({"gpu": ("H100",)}, 'gpu="H100"'),
        ({"gpu": ("H100", "A100")}, 'gpu=["H100", "A100"]'),
        ({"cpu": (4,)}, "cpu=4"),
        ({"cpu": (0.5, 2.0)}, "cpu=(0.5, 2.0)"),
        ({"memory_mib": (8192,)}, "memory=8192"),
        ({"memory_mib": (8192, 16384)}, "memory=(8192, 16384)"),
        ({"ephemeral_disk_mib": 614400}, "ephemeral_disk=614400"),
        ({"region": ("us",)}, 'region="us"'),
        ({"region": ("us", "eu")}, 'region=["us", "eu"]'),
        ({"cloud": "aws"}, 'cloud="aws"'),
    ],
)
def test_resources(compute: dict, keywords: str) -> None:
    given = worker(job(compute=Compute(**compute)))
    assert (
        given == f"@app.cls(image=image, {keywords}, timeout=600, retries=0, max_containers=100, scaledown_window=60)"
    )


def test_limits() -> None:
    compute = Compute(timeout_s=5, startup_timeout_s=6, min_containers=1, max_containers=2, buffer_containers=3)
    assert worker(job(compute=compute)) == (
        "@app.cls(image=image, timeout=5, startup_timeout=6, retries=0, min_containers=1, max_containers=2, "
        "buffer_containers=3, scaledown_window=60)"
    )


def test_extras_of_modal() -> None:
    modal = {"proxy": "corp", "nonpreemptible": True}
    given = worker(job(compute=Compute(modal=modal)))
    assert given.endswith('scaledown_window=60, nonpreemptible=True, proxy=modal.Proxy.from_name("corp"))')


@pytest.mark.parametrize("name", ["image", "retries", "x=1, y", "serialized"])
def test_other_extras_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"is not a keyword of `app\.cls` that a spec can give"):
        worker(job(compute=Compute(modal={name: 1})))


def test_slots_take_a_split_each() -> None:
    assert expressions.concurrent_call(job()) == "@modal.concurrent(max_inputs=2, target_inputs=1)"
    four = job(handler=Handler(call="h:f", slots=4))
    assert expressions.concurrent_call(four) == "@modal.concurrent(max_inputs=5, target_inputs=4)"


def test_environment_and_image_of_the_driver() -> None:
    found = job(env={"B": "2", "A": "1"}, image=Image(apt=("git",)))
    assert names(found)["env"] == '{"A": "1", "B": "2"}'
    call = flat(expressions.function_call(expressions.shared(found), 60))
    assert call == "@app.function(image=driver_image, env=env, timeout=60)"


def test_every_secret_is_named_once_with_all_its_keys() -> None:
    found = Job(
        name="j",
        handler=Handler(call="h:f"),
        secrets=(SecretRef(name="b"), SecretRef(name="a", required_keys=("Z", "K"))),
        source=Source(uris=("s3://in/",), credentials=Credentials(secret="a", access_key_id="K", session_token="T")),
        sink=Sink(uri="s3://out/", credentials=Credentials(secret="c")),
    )
    assert names(found)["secrets"] == (
        '[modal.Secret.from_name("b"), modal.Secret.from_name("a", required_keys=["K", "T", "Z"]), '
        'modal.Secret.from_name("c")]'
    )
    assert "secrets=secrets" in worker(found)
    assert "secrets=secrets" in flat(expressions.function_call(expressions.shared(found), 60))


@pytest.mark.parametrize(
    ("ref", "source"),
    [
        ("v", 'modal.Volume.from_name("v", create_if_missing=True)'),
        (VolumeRef(name="v", version=2), 'modal.Volume.from_name("v", create_if_missing=True, version=2)'),
        (VolumeRef(name="v", create=False, read_only=True), 'modal.Volume.from_name("v").read_only()'),
        (VolumeRef(bucket="s3://b/"), 'modal.CloudBucketMount("b")'),
        (
            {"bucket": "s3://b/p/", "credentials": "s", "read_only": True},
            'modal.CloudBucketMount("b", key_prefix="p/", secret=modal.Secret.from_name("s"), read_only=True)',
        ),
    ],
)
def test_volumes(ref: object, source: str) -> None:
    assert flat(objects.volume(ref)) == source


V2 = "create_if_missing=True, version=2)"


def test_local_data_has_a_volume_of_its_own() -> None:
    found = names(job(sink="out/"))
    assert found["data_volumes"] == f'{{"/mnt/modalbatch-j": modal.Volume.from_name("modalbatch-j", {V2}}}'
    assert "volumes=data_volumes" in worker(job(sink="out/"))


def test_volumes_with_data_are_mounted_everywhere_the_others_in_workers_only() -> None:
    found = job(sink="volume://areas/x/", volumes={"/m": VolumeRef(name="models")})
    given = names(found)
    assert given["data_volumes"] == f'{{"/mnt/areas": modal.Volume.from_name("areas", {V2}}}'
    assert given["volumes"] == '{**data_volumes, "/m": modal.Volume.from_name("models", create_if_missing=True)}'
    assert "volumes=volumes" in worker(found)
    assert "volumes=data_volumes" in flat(expressions.function_call(expressions.shared(found), 60))


def test_a_sink_on_a_mounted_volume_stays_where_the_spec_mounts_it() -> None:
    given = names(job(sink="volume://areas/x/", volumes={"/m": VolumeRef(name="areas", version=1)}))
    assert given["data_volumes"] == '{"/m": modal.Volume.from_name("areas", create_if_missing=True, version=1)}'
    assert "volumes" not in given


def test_volumes_of_the_data_have_one_place_in_every_container() -> None:
    assert volume_paths(job()) == {}
    assert volume_paths(job(source="data/*.jsonl")) == {"modalbatch-j": "/mnt/modalbatch-j"}
    assert volume_paths(job(source="volume://b/x/", sink="volume://a/")) == {"a": "/mnt/a", "b": "/mnt/b"}
    taken = {"/mnt/a": VolumeRef(name="other"), "/data": VolumeRef(name="b")}
    found = volume_paths(job(source="volume://b/", sink="volume://a/", volumes=taken))
    assert found == {"a": "/mnt/a-data", "b": "/data"}


def test_names_of_volumes_fit_modals_limit_and_stay_different() -> None:
    long = ["x" * 53, "x" * 54, "x" * 63, "x" * 62 + "y"]
    found = [data_volume(job(name=name, sink="out/")) for name in long]
    assert found[0] == "modalbatch-" + "x" * 53
    assert [len(name) for name in found] == [64, 64, 64, 64]
    assert len(set(found)) == 4


def test_the_specs_folder_is_found_from_the_app() -> None:
    assert expressions.spec_folder(".") == "Path(__file__).resolve().parent"
    assert expressions.spec_folder("../a") == '(Path(__file__).resolve().parent / "../a").resolve()'
    long, longer = "x" * 80, "x" * 90
    assert expressions.spec_folder(long) == f'(\n    Path(__file__).resolve().parent / "{long}"\n).resolve()'
    assert expressions.spec_folder(longer) == f'(\n    Path(__file__).resolve().parent\n    / "{longer}"\n).resolve()'
