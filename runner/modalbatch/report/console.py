"""The console: the one place besides `cli` that prints. Runs on: laptop.

Owns what a person sees of a run while it goes on: a live panel on a terminal, a line now and then without one, JSON
lines with `--json`. Everything goes to stderr; data on stdout is the commands' own. Imports rich on a terminal only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from modalbatch.canonical import Json
from modalbatch.report import text
from modalbatch.report.meter import Meter

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

#: Seconds between lines of progress without a terminal; a shorter run has none.
LINE_S = 5.0


class Console:
    """Where a command speaks to people. A context manager: leaving it ends the live panel."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        verbose: bool = False,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._as_json, self._verbose, self._now = stream or sys.stderr, as_json, verbose, now
        self._is_terminal = not as_json and self._stream.isatty()
        self._live: Live | None = None
        self._meter = Meter()
        self._progress: Json | None = None
        self._line_at = now() + LINE_S
        #: Containers that there can be, for the panel.
        self.n_containers = 0

    @property
    def can_ask(self) -> bool:
        """Whether a person can be asked."""
        return self._is_terminal and sys.stdin.isatty()

    def say(self, line: str) -> None:
        """A line for a person; with `--json` an event."""
        if self._as_json:
            self._write(json.dumps({"event": "note", "text": line}, ensure_ascii=False))
        else:
            self._write(line)

    def event(self, event: Json, lines: list[str] | None = None) -> None:
        """Something that happened: an event with `--json`, else these lines."""
        if self._as_json:
            self._write(json.dumps(event, ensure_ascii=False))
        for line in lines or () if not self._as_json else ():
            self._write(line)

    def progress(self, progress: Json) -> None:
        """How far the run is."""
        self._meter.add(progress)
        self._progress = progress
        if self._as_json:
            self._write(json.dumps(progress, ensure_ascii=False))
        elif self._is_terminal:
            self._show()
        elif self._now() >= self._line_at:
            self._line_at = self._now() + LINE_S
            self._write(text.progress_line(progress, self._meter.rate(), self._meter.left_s(progress)))

    def log(self, event: Json) -> None:
        """What a container said."""
        said = event["text"].rstrip("\n")
        self.event(event, [f"  | {line}" for line in said.split("\n")])

    def ask(self, question: str, answers: dict[str, str]) -> str:
        """What a person answers: a key of `answers` (key: what it does); just Enter is the last one."""
        self.close()
        for key, meaning in answers.items():
            self._write(f"  {key}: {meaning}")
        while True:
            self._stream.write(f"{question} [{'/'.join(answers)}] ")
            self._stream.flush()
            line = sys.stdin.readline()
            given = line.strip().lower() or list(answers)[-1]
            found = [key for key in answers if key.startswith(given)]
            if found:
                return found[0]

    def close(self) -> None:
        """End the live panel."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()

    def _show(self) -> None:
        if self._live is None:
            from rich.console import Console as Terminal
            from rich.live import Live

            terminal = Terminal(file=self._stream)
            self._live = Live(console=terminal, get_renderable=self._panel, refresh_per_second=4, transient=True)
            self._live.start()
        self._live.refresh()

    def _panel(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        assert self._progress is not None
        progress, splits, counts = self._progress, self._progress["splits"], self._progress["counts"]
        rate, left_s = self._meter.rate(), self._meter.left_s(progress)
        table = Table.grid(padding=(0, 2))
        total = splits["todo"] if splits["is_total"] else None
        bar: Any = ProgressBar(total=total, completed=splits["done"], width=30, pulse=total is None)
        table.add_row(progress["phase"], bar, "" if left_s is None else f"about {text.duration(left_s)} left")
        of = f" of {splits['todo']:,}" if splits["is_total"] else ""
        kept = f", {splits['kept']:,} kept" if splits["kept"] else ""
        failed = f", {splits['failed']:,} failed" if splits["failed"] else ""
        table.add_row(
            "splits", f"{splits['done']:,}{of} done{kept}{failed}", text.count(self.n_containers, "container")
        )
        speed = "" if rate is None else f"{rate:,.0f} records/s"
        table.add_row("records", f"{counts['in']:,} in, {counts['out']:,} out, {counts['dead']:,} dead", speed)
        return table
