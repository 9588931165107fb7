"""`modalbatch compile`: printing, writing, comparing."""

from pathlib import Path

import pytest

from modalbatch.cli import main

SPEC = """\
version: 1
name: word-count
handler: handlers:count
source: a.jsonl
sink: out/
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "handlers.py").write_text("def count(record):\n    return record\n")
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "a.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "a.yaml"


def test_it_prints_what_apply_would_run_and_writes_nothing(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "a.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[2] == "#   modalbatch compile ../../../a.yaml -o mb_word_count.py"
    assert err == ""
    assert sorted(path.name for path in spec.parent.iterdir()) == ["a.jsonl", "a.yaml", "handlers.py"]


def test_check_is_silent_on_what_o_wrote(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "a.yaml", "-o", "sub/app.py"]) == 0
    assert main(["compile", "a.yaml", "--check", "sub/app.py"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (spec.parent / "sub" / "app.py").read_text().splitlines()[2] == "#   modalbatch compile ../a.yaml -o app.py"


def test_check_shows_the_difference(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compile", "a.yaml", "-o", "app.py"])
    spec.write_text(SPEC + "timeout: 20m\n")
    assert main(["compile", "a.yaml", "--check", "app.py"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("--- app.py\n+++ a.yaml (compiled)\n@@ ")
    changed = [line for line in out.splitlines()[2:] if line[0] in "+-"]
    decorator = (
        "@app.cls(image=image, volumes=data_volumes, timeout=%s, retries=0, max_containers=100, scaledown_window=60)"
    )
    assert changed == ['+    "compute": {"timeout_s": 1200},', "-" + decorator % 600, "+" + decorator % 1200]
    assert err == ""


def test_check_of_nothing(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "a.yaml", "--check", "app.py"]) == 2
    assert capsys.readouterr().err == (
        "error: cannot read `app.py`: No such file or directory\nhint: `modalbatch compile SPEC -o app.py` writes it\n"
    )


def test_check_of_a_file_that_is_no_text(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (spec.parent / "app.py").write_bytes(b"\xff\n")
    assert main(["compile", "a.yaml", "--check", "app.py"]) == 1
    assert capsys.readouterr().out.splitlines()[3] == "-\\xff"


def test_o_that_cannot_be_written_leaves_nothing(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (spec.parent / "app").mkdir()
    assert main(["compile", "a.yaml", "-o", "app"]) == 2
    assert capsys.readouterr().err == "error: cannot write `app`: Is a directory\n"
    assert sorted(path.name for path in spec.parent.iterdir()) == ["a.jsonl", "a.yaml", "app", "handlers.py"]


def test_o_and_check_together(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "a.yaml", "-o", "x.py", "--check", "x.py"]) == 2
    assert capsys.readouterr().err == "error: `-o` and `--check` exclude each other\n"


def test_a_wrong_spec_is_told_before_anything_is_written(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec.write_text(SPEC + "timeuot: 1\n")
    assert main(["compile", "a.yaml", "-o", "app.py"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("a.yaml:6:1: unknown key `timeuot`\n")
    assert not (spec.parent / "app.py").exists()
