"""The frame of the command line: verbs, exit codes, where text goes."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from modalbatch import cli
from modalbatch.cli import VERBS, main
from modalbatch.errors import BusyError, FailedError

HEAVY = ["modal", "boto3", "smart_open", "pyarrow", "jinja2", "asyncio", "rich"]
SPEC = "version: 1\nname: j\nhandler: handlers:count\nsource: data/*.jsonl\nsink: out/\n"


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_text("{}\n")
    (tmp_path / "handlers.py").write_text("raise SystemExit('ran')\ndef count(record): ...\n")
    (tmp_path / "job.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb, (_, summary) in VERBS.items():
        assert f"  {verb} " in out
        assert summary in out


def test_nothing_is_help_on_stderr(capsys):
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Usage: modalbatch [OPTIONS] COMMAND [ARGS]...\n")


@pytest.mark.parametrize("args", [["--help"], ["validate", "job.yaml"], ["validate", "--help"], ["version"]])
def test_cheap_verbs_import_nothing_heavy(job, args):
    code = (
        "import sys; from modalbatch.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], check=False, cwd=job, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_named_by_the_table_alone(verb):
    target, summary = VERBS[verb]
    assert target == f"modalbatch.cli.{verb}:command"
    assert summary.endswith(".")
    assert summary[0].isupper()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if Path(cli.__file__).with_name(f"{verb}.py").exists()])
def test_every_verb_is_a_click_command(verb):
    command = importlib.import_module(f"modalbatch.cli.{verb}").command
    assert isinstance(command, click.Command)
    assert command.help


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["valdate"], "error: unknown command `valdate`\nhint: did you mean `validate`?\n"),
        (["zzz"], "error: unknown command `zzz`\nhint: `modalbatch --help` lists the commands\n"),
        (["--hlp"], "error: unknown option `--hlp`\nhint: did you mean `--help`?\n"),
        (["validate", "--jsn"], "error: unknown option `--jsn`\nhint: did you mean `--json`?\n"),
        (["validate"], "error: missing argument `SPEC...`\nhint: `modalbatch validate --help` shows the options\n"),
        (
            ["explain", "a", "b"],
            "error: got unexpected extra argument (b)\nhint: `modalbatch explain --help` shows the options\n",
        ),
    ],
)
def test_wrong_usage_says_what_was_meant(args, said, capsys):
    assert main(args) == 2
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    "args", [["--json"], ["validate", "--json"], ["valdate", "--json"], ["validate", "--json", "x"]]
)
def test_json_is_json_even_when_the_usage_is_wrong(args, capsys):
    assert main(args) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert said["errors"][0]["message"]


def raising(error):
    @click.command()
    @click.argument("rest", nargs=-1)
    def command(rest):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BusyError("another run is active", hint="wait"), 75, "error: another run is active\nhint: wait\n"),
        (FailedError("no"), 1, "error: no\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.Abort(), 130, "interrupted\n"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_an_exception_is_an_exit_code(error, code, said, monkeypatch, capfd):
    monkeypatch.setattr("modalbatch.cli.version.command", raising(error))
    assert main(["version"]) == code
    assert capfd.readouterr().err == said


def test_a_bug_is_a_report_to_paste(monkeypatch, capsys):
    monkeypatch.setattr("modalbatch.cli.version.command", raising(ZeroDivisionError("x")))
    assert main(["version"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: this is a bug of modalbatch: ZeroDivisionError: x"
    assert lines[1].startswith("  modalbatch ")
    assert lines[1].endswith(", command `version`")
    assert lines[-2].startswith("  test_main.py:")
    assert lines[-1] == "hint: please report it with these lines"


def test_json_before_the_separator_is_ours_only(monkeypatch, capsys):
    monkeypatch.setattr("modalbatch.cli.version.command", raising(FailedError("no")))
    assert main(["version", "--", "--json"]) == 1
    assert capsys.readouterr().out == ""


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from modalbatch.cli import main; sys.exit(main(['schema']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        stdout=write,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(("args", "code"), [(["version"], 0), (["zzz"], 2)])
def test_the_package_is_the_command_too(args, code, tmp_path):
    script = [str(Path(sys.executable).with_name("modalbatch"))]
    module = [sys.executable, "-m", "modalbatch"]
    ran = [subprocess.run([*by, *args], cwd=tmp_path, capture_output=True, check=False) for by in (script, module)]
    assert [done.returncode for done in ran] == [code, code]
    assert (ran[0].stdout, ran[0].stderr) == (ran[1].stdout, ran[1].stderr)
