"""Images: what is honoured, what is reported, what fails before anything runs."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from engine_bench import Bench

from modalbatch.engines.local import LocalEngine
from modalbatch.engines.local.images.image import expand, read_image
from modalbatch.engines.local.wire import proto


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    info = "tinywheel-1.0.dist-info"
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "tinywheel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinywheel.py", "VALUE = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinywheel\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", f"tinywheel.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return folder


def test_an_image_is_honoured(bench, wheels, monkeypatch):
    """`pip_install`, `uv_sync`, requirements, `env`, `workdir`, `add_local_*` with and without copy."""
    monkeypatch.setenv("WHEELS", str(wheels))
    found = bench.run("pictures.py")
    assert found["tinywheel"] == 42
    assert found["parcel"] == "parcel"
    assert found["greeting"] == "hello world"
    assert found["path"] == "/opt/tools/bin"
    assert found["cwd"] == "/srv/work"
    assert found["texts"] == {
        "/opt/copied/one.txt": "one",
        "/app/prompts/one.txt": "one",
        "/app/prompts/sub/two.txt": "two",
        "/etc/mb-test/one.txt": "one",
        "/root/mb-data/one.txt": "one",
    }
    assert found["hosts"]
    assert "not run by the local engine: RUN apt-get install -y ffmpeg" in found["output"]
    assert "not run by the local engine: RUN echo built > /built" in found["output"]
    assert "gpu H100 is accepted and ignored" in found["output"]
    for path in ("/srv/work", "/opt/copied", "/app/prompts", "/etc/mb-test", "/root/mb-data", "/built"):
        assert not Path(path).exists()


def test_a_build_that_fails_says_what_uv_says(bench, tmp_path):
    (tmp_path / "broken.py").write_text(
        "import modal\n"
        "image = modal.Image.debian_slim().pip_install('no-such-package==9', extra_options='--no-index')\n"
        "app = modal.App('broken', image=image)\n"
        "@app.function()\ndef f(): pass\n"
        "@app.local_entrypoint()\ndef main():\n    f.remote()\n"
    )
    output = bench.modal("run", "broken.py", code=1, cwd=tmp_path)
    assert "the image's environment cannot be built" in output
    assert "no-such-package" in output


def test_a_python_that_cannot_be_had_is_replaced_by_the_nearest(home, tmp_path, monkeypatch):
    monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", "file:///nowhere")
    wanted = next(f"3.{minor}" for minor in (14, 9) if minor != sys.version_info.minor)
    (tmp_path / "future.py").write_text(
        "import modal, sys\n"
        f"app = modal.App('future', image=modal.Image.from_registry('python:{wanted}-slim'))\n"
        "@app.function()\ndef f(): return sys.version_info.minor\n"
        "@app.local_entrypoint()\ndef main():\n    print('MINOR', f.remote())\n"
    )
    with LocalEngine(home) as engine:
        output = Bench(home, engine).modal("run", "future.py", cwd=tmp_path)
        assert f"python {wanted} is not installed here: asking uv for it" in output
        assert f"python {wanted} is not installed here: using 3." in output
        assert any(f"python {wanted} is not installed here" in note for note in engine.notes)
    assert "MINOR" in output


def _image(*commands, bases=("im-1",), **fields):
    return proto.Image(
        dockerfile_commands=commands, base_images=[proto.BaseImage(image_id=base) for base in bases], **fields
    )


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("RUN python -m pip install 'a>=1' b --pre", ("a>=1", "b", "--prerelease", "allow")),
        ("RUN pip install -U a --no-cache-dir", ("-U", "a")),
        ("RUN /.uv/uv pip install --python $(command -v python) --compile-bytecode a", ("a",)),
        ("RUN uv pip install --system a --index-url=https://x/simple", ("a", "--index-url=https://x/simple")),
    ],
)
def test_install_lines_become_arguments_of_uv(line, arguments):
    spec = read_image([_image("FROM base", line)], lambda _: "")
    assert [step.arguments for step in spec.steps] == [arguments]
    assert spec.ignored == []


@pytest.mark.parametrize(
    "line", ["RUN pip install a && rm -r x", "RUN make", "RUN apt-get install -y git", "RUN pip install $(cat x)"]
)
def test_other_lines_are_reported(line):
    spec = read_image([_image("FROM base", line)], lambda _: "")
    assert spec.steps == []
    assert spec.ignored == [line]


def test_requirement_files_are_taken_from_the_context():
    layer = _image(
        "FROM base",
        "COPY /.requirements.txt /.requirements.txt",
        "RUN python -m pip install -r /.requirements.txt",
        context_files=[proto.ImageContextFile(filename="/.requirements.txt", data=b"a==1\n")],
    )
    (step,) = read_image([layer], lambda _: "").steps
    assert step.arguments == ("-r", "0-.requirements.txt")
    assert step.files == (("0-.requirements.txt", b"a==1\n"),)


def test_the_base_decides_the_python_and_env_lines_build_on_each_other():
    base = _image("FROM python:3.12.10-slim-bookworm", "RUN apt-get update", "RUN pip install pip", bases=())
    spec = read_image([base, _image("FROM base", "ENV A=1", "ENV B='$A ${A}2'", "WORKDIR /x")], lambda _: "")
    assert spec.python == "3.12"
    assert spec.environ == {"A": "1", "B": "1 12"}
    assert spec.workdir == "/x"
    assert spec.steps == []
    assert spec.ignored == []


def test_expand_leaves_nothing_unknown():
    assert expand("a$X-${Y}b", {"X": "1"}) == "a1-b"
