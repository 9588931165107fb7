"""What is seen of a run while it goes on: on a terminal, and as JSON lines."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator

import pytest

from command import BIN, live_records, write_records


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command, *args: str) -> None:
        self._main, side = pty.openpty()
        environ = {**os.environ, **command.environ, "MODALBATCH_HOME": str(command.home), "TERM": "xterm"}
        words = [str(BIN / "modalbatch"), *args]
        self.process = subprocess.Popen(words, cwd=command.cwd, env=environ, stdin=side, stdout=side, stderr=side)
        os.close(side)
        self.seen = ""

    def wait_for(self, text: str) -> None:
        """Read until `text` was shown."""
        while text not in self.seen:
            self.seen += self._read()

    def type(self, line: str) -> None:
        """As a person would."""
        os.write(self._main, f"{line}\n".encode())

    def end(self) -> int:
        """The exit code; everything shown is in `seen`."""
        try:
            while True:
                self.seen += self._read()
        except EOFError:
            return self.process.wait()

    def close(self) -> None:
        """Hang up."""
        self.process.kill()
        self.process.wait()
        os.close(self._main)

    def _read(self) -> str:
        try:
            data = os.read(self._main, 65536)
        except OSError:  # how Linux says that the other side is closed
            data = b""
        if not data:
            raise EOFError(self.seen)
        return data.decode(errors="replace")


@pytest.fixture
def terminal(modalbatch) -> Iterator[type]:
    """Starts commands on terminals."""
    opened = []

    def start(*args: str) -> Terminal:
        opened.append(Terminal(modalbatch, *args))
        return opened[-1]

    yield start
    for item in opened:
        item.close()


def test_a_terminal_shows_a_panel(terminal, gate):
    run = terminal("apply", "gated.yaml")
    run.wait_for("0 in, 0 out, 0 dead")
    run.wait_for("containers")
    gate.touch()
    assert run.end() == 0
    assert "next: modalbatch ls" in run.seen


@pytest.mark.parametrize(("answer", "square"), [("keep", 16), ("redo", 17)])
def test_a_terminal_asks_what_to_do_with_results_of_earlier_code(terminal, modalbatch, squares, work, answer, square):
    assert modalbatch("apply", "squares.yaml").code == 0
    handler = work / "handlers.py"
    handler.write_text(handler.read_text().replace("** 2", "** 2 + 1"))
    run = terminal("apply", "squares.yaml")
    run.wait_for("code or image changed: redo or keep? [redo/keep] ")
    run.type(answer)
    assert run.end() == 0
    assert {item["n"]: item["square"] for item in live_records(squares)}[4] == square


def test_interrupt_on_a_terminal(terminal, gate):
    run = terminal("apply", "gated.yaml")
    run.wait_for("0 in, 0 out, 0 dead")
    run.process.send_signal(2)
    run.wait_for("Ctrl-C again ends it now")
    run.process.send_signal(2)
    assert run.end() == 130
    assert "interrupted: what is done stays done" in run.seen


def test_json_lines(modalbatch, squares, work):
    write_records(work / "data/c.jsonl", [{"m": 1}])
    (work / "squares.yaml").write_text((work / "squares.yaml").read_text() + "retries: 0\n")
    done = modalbatch("apply", "squares.yaml", "--json")
    events = [json.loads(line) for line in done.err.splitlines()]
    kinds = [event["event"] for event in events]
    assert [kind for kind in kinds if kind != "progress"] == ["note", "plan", "started", "outcome"]
    result = done.json
    assert (result["ok"], result["exit_code"], result["counts"]["dead"]) == (False, 1, 1)
    assert result["run_id"] == events[-1]["run_id"]
    assert {"name": "squares", "engine": "local", "sink": "out/"}.items() <= result.items()


HANDLER = """\
print("hello", flush=True)
raise RuntimeError("no luck")


def square(record):
    return record
"""


def test_output_of_containers_is_shown_when_asked_for_or_when_it_fails(modalbatch, squares, work):
    (work / "handlers.py").write_text(HANDLER)
    failed = modalbatch("apply", "squares.yaml")
    assert failed.code == 2
    lines = failed.err.splitlines()
    assert any(line.startswith("error: the handler does not start: RuntimeError: no luck") for line in lines)
    assert "  | hello" in lines
