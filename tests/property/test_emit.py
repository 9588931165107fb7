"""Strings of a spec can never become code, whatever they are; and what is emitted is formatted, whatever its shape."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from modalbatch.compiler.emit import emit
from modalbatch.job import (
    Compute,
    Credentials,
    Handler,
    Image,
    Job,
    OnError,
    Retries,
    SecretRef,
    Sink,
    Source,
    Split,
    VolumeRef,
)

#: What has escaped from generated files elsewhere, and what might.
HOSTILE = [
    '")\nimport os\nos.abort()\n#', "'''+__import__('os').abort()+'''", '"""', "\\", '\\"', "\\\n", "\r", "\r\nx = 1",
    "\0", "\x1a", "\x0c", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\ufeff", "\ud800", "\udfff\ud800", "\uffff",
    "\U0010ffff", "# coding: utf-7", "# -*- coding: unicode_escape -*-", "{{ 7*7 }}", "{% raw %}", "{# x #}",
    "${{ x }}", "%s", "{0.__class__}", "f'{1}'", "\\N{BULLET}", "\\u0022", "#", ";", "\x1b[2J", "\u0130", "\ufb01",
    "e\u0301", "None", "__import__('os').abort()", "+ADwA-script+AD4-", "x" * 1000, "", " ", "/", ".", "..", "./", "~",
]  # fmt: skip
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=40))
#: Words for a job, over and over.
lists = st.lists(texts, min_size=1, max_size=30)


def job_of(words: Iterator[str]) -> Job:
    """A job of one fixed shape with a word wherever a spec's text can be anything; names are names."""

    def word(before: str = "", after: str = "") -> str:
        return before + next(words) + after

    def keyed(n: int) -> dict[str, str]:
        return {word(before=str(i)): word() for i in range(n)}

    return Job(
        name="name",
        description=word("d"),
        tags=keyed(2),
        environment=word("e"),
        image=Image(
            base={"dockerfile": {"path": word("p"), "build_args": keyed(2)}, "entrypoint": [word()]},
            apt=(word(), word()),
            pip=({"packages": [word()], "index_url": word(), "secrets": [word()]},),
            requirements={"path": word("p"), "sha256": "0"},
            run=({"command": word(), "volumes": {word(): word()}, "env": keyed(1)},),
            env=keyed(2),
            workdir=word("/"),
            add_local=({"local": word("p", "x"), "remote": word("/"), "sha256": "0"},),
            layers=(
                {"run_commands": {"args": [word()], "kwargs": {"env": keyed(1)}}},
                {"add_local_dir": [word("p"), word()]},
            ),
            pipe=word("m:"),
        ),
        compute=Compute(
            gpu=(word(), word()),
            region=(word(),),
            cloud=word("c"),
            modal={"experimental_options": keyed(2), "proxy": word(), "routing_region": word()},
        ),
        retries=Retries(max_retries=1),
        retry_on=(word(),),
        secrets=(SecretRef(name="s", required_keys=("a", word("b"))),),
        env=keyed(2),
        volumes={
            "/1" + word(): VolumeRef(name="v"),
            "/2" + word(): VolumeRef(bucket="s3://b/" + word("x"), credentials=word("c")),
        },
        handler=Handler(call=word("m:"), args={word(): [word(), {word(): word()}]}, keep=(word(),), version=word("v")),
        source=Source(
            uris=(word("s3://"), word("s3://")),
            split=Split(files=1),
            endpoint_url=word("u"),
            credentials=Credentials(secret="c", access_key_id=word("k")),
        ),
        sink=Sink(uri=word("s3://"), credentials=Credentials(secret="d", role_arn=word("r"))),
        on_error=OnError(max_failed=1),
    )


def source_of(words: Iterator[str], **names: str) -> str:
    return emit(job_of(words), **{"spec_name": "a.yaml", "spec_dir": "../x", "fingerprint": "0" * 8, **names})


def plain_words() -> Iterator[str]:
    return (f"w{n}" for n in range(1000))


def skeleton(source: str | bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = None
    return ast.dump(tree)


PLAIN = skeleton(source_of(plain_words()))


@settings(max_examples=100, deadline=None)
@given(lists)
@example(HOSTILE)
@example([""])
def test_the_code_is_the_same_whatever_the_strings(words: list[str]) -> None:
    source = source_of(cycle(words))
    assert source.isascii()
    compile(source, "app.py", "exec")
    assert skeleton(source) == PLAIN


@settings(max_examples=100, deadline=None)
@given(texts, texts, texts, texts)
def test_names_in_the_header_and_the_folder_are_no_code(name: str, folder: str, app: str, fingerprint: str) -> None:
    names = {"spec_name": name, "spec_dir": "../" + folder, "app_name": app, "fingerprint": fingerprint}
    source = source_of(plain_words(), **names).encode("ascii")  # as bytes: a coding cookie would count
    compile(source, "app.py", "exec")
    assert skeleton(source) == PLAIN


@settings(max_examples=100, deadline=None)
@given(lists)
@example(HOSTILE)
def test_the_job_in_the_app_is_the_job(words: list[str]) -> None:
    tree = ast.parse(source_of(cycle(words)))
    data = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "JOB")
    assert Job.from_json(ast.literal_eval(data)) == job_of(cycle(words))


RUN = """
import json, runpy, sys
for path in sys.argv[1:]:
    print(json.dumps(runpy.run_path(path)["JOB"]))
"""


def test_hostile_apps_run_under_the_real_modal_and_do_nothing(tmp_path: Path) -> None:
    """Every hostile word, in apps that Python and modal really execute."""
    jobs = []
    for n in range(0, len(HOSTILE), 7):
        job = job_of(cycle(HOSTILE[n:] + HOSTILE[:n]))
        # What modal itself checks when an app is imported is left out: tags, GPUs, mount paths, functions for `pipe`.
        image = {"env": job.image.env, "run": [{"command": entry["command"]} for entry in job.image.run]}
        data = {**job.to_json(), "tags": {}, "volumes": {}, "compute": {}, "image": image}
        jobs.append(Job.from_json(data))
    paths = [tmp_path / f"app{n}.py" for n in range(len(jobs))]
    for path, job in zip(paths, jobs, strict=True):
        path.write_text(emit(job, spec_name="a.yaml", spec_dir=".", fingerprint="0"))
    command = [sys.executable, "-c", RUN, *map(str, paths)]
    env = {**os.environ, "MODAL_CONFIG_PATH": os.devnull}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert [Job.from_json(json.loads(line)) for line in done.stdout.splitlines()] == jobs


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=25,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(texts, plain_data, max_size=6), lists, st.integers(0, 40))
def test_ruff_would_change_nothing(args: dict, words: list[str], depth: int) -> None:
    job = Job.from_json({**job_of(cycle(words)).to_json(), "handler": {"call": "m:f", "args": args}})
    source = emit(job, spec_name="a.yaml", spec_dir="/".join([".."] * depth + ["x"]), fingerprint="0")
    assert ruff("format --line-length 120 -", source) == source
    assert ruff("check --select E4,E7,E9,F,I -", source) == ""


def ruff(command: str, source: str) -> str:
    line = [sys.executable, "-m", "ruff", *command.split(), "--isolated", "--quiet", "--no-cache"]
    done = subprocess.run(line, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
