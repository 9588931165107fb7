"""The command line: one table of verbs, one place that ends the process. Runs on: laptop.

Owns which verbs exist, how a verb is found without importing the others, and how an exception becomes text (or JSON)
and an exit code. Refuses work of its own: a verb is a click command named `command` in a module of its own.
Data goes to stdout, everything for people to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from modalbatch.errors import InternalError, ModalbatchError, SpecErrors, UsageError

#: Verb → (module:command, what it does). The only list of verbs; help reads it and imports none of them.
VERBS: dict[str, tuple[str, str]] = {
    "init": ("modalbatch.cli.init:command", "Write a working starter: spec, handler, data."),
    "validate": ("modalbatch.cli.validate:command", "Check specs: all mistakes at once, no network."),
    "explain": ("modalbatch.cli.explain:command", "Explain a key of the spec: meaning, unit, default, example."),
    "compile": ("modalbatch.cli.compile:command", "Print the Modal app that a spec becomes."),
    "plan": ("modalbatch.cli.plan:command", "Show what apply would do, and why."),
    "apply": ("modalbatch.cli.apply:command", "Do what is missing: plan, run, follow, publish."),
    "ls": ("modalbatch.cli.ls:command", "List the live parts of a sink."),
    "cat": ("modalbatch.cli.cat:command", "Print the live records of a sink."),
    "errors": ("modalbatch.cli.errors:command", "Show what went wrong, in kinds, with how many records each."),
    "test": ("modalbatch.cli.test:command", "Try the record of a dead letter again, if you like in a debugger."),
    "retry": ("modalbatch.cli.retry:command", "Process dead letters again, with the handler as it is now."),
    "verify": ("modalbatch.cli.verify:command", "Prove from storage alone that every record is accounted for once."),
    "rm": ("modalbatch.cli.rm:command", "Delete what modalbatch wrote, after showing how much that is."),
    "runs": ("modalbatch.cli.runs:command", "List the runs of a sink."),
    "status": ("modalbatch.cli.status:command", "Show how far a run is."),
    "logs": ("modalbatch.cli.logs:command", "Show what a run said."),
    "cancel": ("modalbatch.cli.cancel:command", "Stop a run; what is done stays done."),
    "local": ("modalbatch.cli.local:command", "Run any command against the local engine."),
    "schema": ("modalbatch.cli.schema:command", "Print the JSON schema of a spec."),
    "version": ("modalbatch.cli.version:command", "Print the versions of modalbatch, modal and Python."),
}

#: `--json`, the same everywhere: results and errors as JSON on stdout.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, errors included.")


def did_you_mean(word: str, known: Sequence[str]) -> str | None:
    """A hint naming the closest of the known words, or None when nothing is close."""
    from modalbatch.spec.words import meant

    return meant(word, known)


def print_json(data: Any) -> None:
    """One JSON document on stdout, keys in the order given."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


class _VerbGroup(click.Group):
    """Verbs of the table, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(module), name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], list(VERBS)) or "`modalbatch --help` lists the commands"
            raise UsageError(f"unknown command `{args[0]}`", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in VERBS.items()])


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from modalbatch import __version__

        sys.stdout.write(f"modalbatch {__version__}\n")
        ctx.exit(0)


@click.group(cls=_VerbGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print it.")
def command() -> None:
    """Batch jobs on Modal: a short YAML file in, output that proves itself out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every exception ends here (`guarantees.md` section 6)."""
    args = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _run(args), args)


def exit_code(work: Callable[[], int], args: list[str]) -> int:
    """Do the work of a command line; its exit code, or that of the exception it ended with, told to the person."""
    as_json = "--json" in (args[: args.index("--")] if "--" in args else args)
    try:
        code = work()
        sys.stdout.flush()
    except ModalbatchError as error:
        _report(error, as_json)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`). Point stdout elsewhere, else the interpreter complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        _report(_as_bug(error, args), as_json)
        return InternalError.exit_code
    return code


def _run(args: list[str]) -> int:
    if not args:
        context = click.Context(command, info_name="modalbatch", **command.context_settings)
        sys.stderr.write(command.get_help(context) + "\n")
        return 2
    try:
        # Not `command.main`: it has its own ideas of Ctrl-C and of readers that go away.
        with command.make_context("modalbatch", list(args)) as context:
            result = command.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.NoSuchOption as error:
        known = sorted(error.possibilities or [])
        hint = f"did you mean `{known[0]}`?" if known else _help_hint(error)
        raise UsageError(f"unknown option `{error.option_name}`", hint=hint) from error
    except click.ClickException as error:
        raise UsageError(_plain(error.format_message()), hint=_help_hint(error)) from error
    return result if isinstance(result, int) else 0


def _plain(message: str) -> str:
    """Click's sentence in our form: lower case, backticks, no full stop."""
    message = re.sub(r"'([^']*)'", r"`\1`", message.strip().rstrip("."))
    return message[:1].lower() + message[1:]


def _help_hint(error: click.ClickException) -> str | None:
    ctx = getattr(error, "ctx", None)
    return f"`{ctx.command_path} --help` shows the options" if ctx else None


def _report(error: ModalbatchError, as_json: bool) -> None:
    try:
        if as_json:
            errors: Sequence[ModalbatchError] = error.errors if isinstance(error, SpecErrors) else [error]
            counts = {"files": error.n_files} if isinstance(error, SpecErrors) else {}
            print_json({"ok": False, **counts, "errors": [item.to_json() for item in errors]})
            sys.stdout.flush()
        else:
            sys.stderr.write(error.render() + "\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_bug(error: Exception, args: list[str]) -> InternalError:
    """An unexpected exception as a short report to paste: versions, the verb, the innermost frames; no values."""
    import platform
    from importlib import metadata

    from modalbatch import __version__

    frames = traceback.extract_tb(error.__traceback__)[-6:]
    package = Path(__file__).resolve().parents[1].parent
    lines = [
        f"  {os.path.relpath(frame.filename, package) if str(package) in frame.filename else Path(frame.filename).name}"
        f":{frame.lineno} in {frame.name}"
        for frame in frames
    ]
    try:
        modal_version = metadata.version("modal")
    except metadata.PackageNotFoundError:
        modal_version = "not installed"
    verb = next((arg for arg in args if arg in VERBS), "")
    text = "\n".join(
        [
            f"this is a bug of modalbatch: {type(error).__name__}: {error}",
            f"  modalbatch {__version__}, modal {modal_version}, python {platform.python_version()}, command `{verb}`",
            *lines,
        ]
    )
    return InternalError(text, hint="please report it with these lines")
