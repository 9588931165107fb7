"""validate, explain, schema, init, version."""

import json
import platform

import pytest

from modalbatch import __version__
from modalbatch.cli import main
from modalbatch.spec import schema

SPEC = "version: 1\nname: j\nhandler: handlers:count\nsource: data/*.jsonl\nsink: out/\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "specs/data").mkdir(parents=True)
    (tmp_path / "specs/data/a.jsonl").write_text("{}\n")
    (tmp_path / "specs/handlers.py").write_text("def count(record): ...\n")
    (tmp_path / "specs/a.yaml").write_text(SPEC)
    (tmp_path / "specs/b.yml").write_text(SPEC)
    (tmp_path / "specs/compose.yaml").write_text("version: 3\nservices: {}\n")
    (tmp_path / "specs/.hidden.yaml").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_right_spec_is_one_line(folder, capsys):
    assert main(["validate", "specs/a.yaml"]) == 0
    assert capsys.readouterr() == ("specs/a.yaml: ok\n", "")


def test_a_folder_is_all_its_specs(folder, capsys):
    assert main(["validate", "specs", "specs/a.yaml"]) == 0
    assert capsys.readouterr() == (
        "specs/a.yaml: ok\nspecs/b.yml: ok\n",
        "specs/compose.yaml: skipped, it does not look like a spec\n2 specs ok\n",
    )


def test_all_mistakes_of_all_files_come_at_once(folder, capsys):
    (folder / "specs/a.yaml").write_text(SPEC + "retires: 3\n")
    (folder / "specs/b.yml").write_text(SPEC + "timeout: 0\ncloud: x\n")
    assert main(["validate", "specs", "missing.yaml"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert [line for line in said.err.splitlines() if ": " in line and not line.startswith(("hint", " "))] == [
        "specs/compose.yaml: skipped, it does not look like a spec",
        "specs/a.yaml:6:1: unknown key `retires`",
        "specs/b.yml:6:10: `timeout` must be 1 s to 24 h, not `0`",
        "specs/b.yml:7:8: `cloud` must be `aws`, `gcp`, `oci` or `auto`, not `x`",
        "missing.yaml:1:1: there is no such file",
    ]
    assert said.err.endswith("4 mistakes in 3 of 3 specs\n")


def test_json_carries_every_mistake(folder, capsys):
    (folder / "specs/a.yaml").write_text(SPEC + "retires: 3\n")
    assert main(["validate", "--json", "specs/a.yaml", "specs/b.yml"]) == 2
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "files": 2,
        "errors": [
            {
                "message": "unknown key `retires`",
                "path": "specs/a.yaml",
                "line": 6,
                "column": 1,
                "hint": "did you mean `retries`?",
            }
        ],
    }
    assert main(["validate", "--json", "specs/b.yml"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "files": 1, "errors": []}


def test_an_empty_folder_has_no_specs(folder, capsys):
    assert main(["validate", "specs/data"]) == 2
    assert capsys.readouterr().err == "error: no spec found\nhint: `modalbatch init` writes a working one\n"


def test_explain_is_the_schema_in_words(capsys):
    assert main(["explain", "handler.batch_size"]) == 0
    assert capsys.readouterr().out == (
        "handler.batch_size\n"
        "  Records in one call; then the handler takes a list and returns one of the same length.\n"
        "\n"
        "  value    a whole number\n"
        "  range    1 to 100000\n"
        "  unit     count\n"
        "  default  none\n"
        "  example  batch_size: 64\n"
    )


@pytest.mark.parametrize("key", [key for key, _ in schema.walk()])
def test_every_key_can_be_explained(key, capsys):
    assert main(["explain", key]) == 0
    assert capsys.readouterr().out.startswith(f"{key}\n")


def test_explain_without_a_key_lists_them(capsys):
    assert main(["explain"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(dict.fromkeys(key for key, _ in schema.walk()))


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("handler.batch_sice", "did you mean `handler.batch_size`?"),
        ("batch_size", "did you mean `handler.batch_size`?"),
        ("zzzzzz", "`modalbatch explain` lists the keys"),
    ],
)
def test_an_unknown_key_is_guessed(key, hint, capsys):
    assert main(["explain", key]) == 2
    assert capsys.readouterr().err == f"error: unknown key `{key}`\nhint: {hint}\n"


def test_explain_as_json(capsys):
    assert main(["explain", "timeout", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["x-unit"] == "seconds"


def test_schema_prints_the_file(capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema.schema_text()


def test_version(capsys):
    assert main(["version", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["modalbatch"], said["python"]) == (__version__, platform.python_version())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"modalbatch {__version__}\n"


def test_init_writes_what_validates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "My Job"]) == 0
    assert capsys.readouterr() == (
        "",
        "wrote My Job/job.yaml\nwrote My Job/handlers.py\nwrote My Job/data/records.jsonl\nwrote My Job/.gitignore\n"
        "\nnext:\n  modalbatch validate 'My Job/job.yaml'\n  modalbatch apply 'My Job/job.yaml' --engine local\n",
    )
    text = (tmp_path / "My Job/job.yaml").read_text()
    modeline, _, rest = text.partition("\n")
    assert rest.startswith("version: 1\nname: my-job\n")
    # The editor finds the schema where the modeline says.
    path = modeline.removeprefix("# yaml-language-server: $schema=")
    assert (tmp_path / "My Job" / path).read_text() == schema.schema_text()
    assert main(["validate", "My Job"]) == 0


def test_init_overwrites_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handlers.py").write_text("mine")
    (tmp_path / ".gitignore").write_text("mine")
    assert main(["init"]) == 2
    assert capsys.readouterr().err == (
        "error: `handlers.py` is already there\n"
        "hint: nothing was written; name an empty folder, for example `modalbatch init my-job`\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", "handlers.py"]
    (tmp_path / "handlers.py").unlink()
    assert main(["init", "."]) == 0
    assert (tmp_path / ".gitignore").read_text() == "mine"
    assert main(["init", ".gitignore"]) == 2
    assert capsys.readouterr().err.endswith("error: `.gitignore` is a file\nhint: name a folder\n")
