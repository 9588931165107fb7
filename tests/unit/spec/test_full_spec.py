"""A spec with nearly every key: editors take it, modal takes it, and no change of it breaks more than itself."""

import copy
import json
import runpy

import pytest
import yaml
from full_spec import FILES, FULL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from modalbatch.compiler.emit import compile_app
from modalbatch.compiler.resolve import resolve
from modalbatch.errors import SpecErrors
from modalbatch.job import Job
from modalbatch.spec import load_spec, schema


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("full")
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


def write(folder, tree):
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    return path


def test_an_editor_with_the_plain_schema_takes_it():
    assert list(Draft202012Validator(schema.job_schema()).iter_errors(FULL)) == []


BASES = [
    {"dockerfile": "Dockerfile", "secret": "s", "add_python": "3.12", "entrypoint": []},
    {"registry": "a:b", "secret": "s", "entrypoint": [], "setup_dockerfile_commands": ["RUN ls"]},
    {"ecr": "a:b", "secret": "s"},
    {"gcp": "a:b", "secret": "s"},
    {"name": "team"},
]


@pytest.mark.parametrize("base", ["debian_slim", *BASES], ids=str)
def test_what_is_accepted_here_is_accepted_by_modal(folder, base):
    tree = copy.deepcopy(FULL)
    if base != "debian_slim":
        del tree["image"]["python"]
        tree["image"]["base"] = base
    path = write(folder, tree)
    app = folder / "mb_app.py"
    app.write_text(compile_app(resolve(load_spec(path)), path, app))
    assert runpy.run_path(str(app))["app"].name == "embed-docs"


def trails(value, trail=()):
    if trail:
        yield trail
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield from trails(item, (*trail, key))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(["8GiB", "10m", "1%", "s3://b", "volume://a", "http://x", "../", "~", "a" * 500]),
    st.sampled_from([[], {}, [1], ["x"], [["x"]], {"a": 1}, [{}], {"uri": "x"}, {"name": "x"}]),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(trail=st.sampled_from(list(trails(FULL))), value=VALUES, is_removed=st.booleans())
def test_any_value_anywhere_is_a_job_or_refused_with_its_place(folder, trail, value, is_removed):
    tree = copy.deepcopy(FULL)
    parent = tree
    for step in trail[:-1]:
        parent = parent[step]
    if is_removed:
        del parent[trail[-1]]
    else:
        parent[trail[-1]] = value
    path = write(folder, tree)
    try:
        job = resolve(load_spec(path))
    except SpecErrors as refused:
        for error in refused.errors:
            assert error.where.line > 0
            assert error.message[0] == "`" or error.message[0].islower() or error.message.startswith("Modal")
            assert "{key}" not in error.message.replace(str(value), "")
    else:
        assert Job.from_json(json.loads(json.dumps(job.to_json()))).name == job.name
