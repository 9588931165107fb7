"""One run as a command sees it: plan, ask, start, follow, sum up. Runs on: laptop.

Owns the order, the questions and the exit code; `apply` and the entry point of generated apps both go through it. The
client does everything that needs Modal, the driver everything that needs the data.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from modalbatch.canonical import Json
from modalbatch.cli.following import Client, Following
from modalbatch.cli.operand import RunNote, Target, run_notes, shown
from modalbatch.driver import runs
from modalbatch.driver.inspect import plan_facts
from modalbatch.driver.publish import mark_success
from modalbatch.driver.reason import leaves
from modalbatch.driver.rule import cut_job
from modalbatch.driver.sweep import sweep
from modalbatch.driver.verdict import judge
from modalbatch.engines.session import Session
from modalbatch.engines.staging import Mirror, is_local, refuse_mirror, sink_roots, stage
from modalbatch.errors import BusyError, ModalbatchError, UsageError
from modalbatch.records import Manifest
from modalbatch.report import text
from modalbatch.report.console import Console
from modalbatch.report.plan import plan_lines
from modalbatch.sinks import live_parts, open_sink
from modalbatch.sinks.objects import ObjectSink
from modalbatch.sources import Source, open_source
from modalbatch.units import parse_seconds

#: A run on Modal that told nothing for so many seconds is not active.
SILENCE_S = 60.0
_AGAIN = "what is done stays done; `modalbatch apply` again continues"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the options of the command say."""

    #: What to do when only code or image changed; both False: ask, or redo.
    keep: bool = False
    redo: bool = False
    #: As in `driver.runs.Request`.
    retry: Json | None = None
    yes: bool = False
    force: bool = False
    into_existing: bool = False
    adopt: bool = False
    detach: bool = False
    verbose: bool = False


class Flow:
    """One command's run of a job."""

    def __init__(
        self, *, target: Target, session: Session, client: Client, wish: Wish, console: Console, app: str | None
    ) -> None:
        self._target, self._session, self._client, self._wish = target, session, client, wish
        #: Path of the app that the client is to open; None where it runs already.
        self._app = app
        self._console = console
        self._job = target.job
        self._sink_label = shown(target.sink_uri)
        is_away = session.kind == "modal" and is_local(target.job.sink.uri)
        #: Where this machine finds source and sink.
        self._roots = {**target.roots, **(sink_roots(target.job) if is_away else {})}
        self._sink: ObjectSink = open_sink(target.job, self._roots)
        self._mirror = Mirror(Path(target.sink_uri), self._sink) if is_away else None
        self._is_opened = False
        self._notes: set[str] = set()
        console.n_containers = session.n_containers(target.job)
        #: What `--json` prints at the end.
        self.result: Json = {"name": self._job.name, "engine": session.kind, "sink": self._sink_label}

    def run(self) -> int:
        """Do what is missing; the exit code."""
        self._console.say(self._session.header(self._job, self._sink_label))
        self._tell_notes()
        if self._mirror:
            self._mirror.check()
        elif is_local(self._job.sink.uri):
            refuse_mirror(Path(self._target.sink_uri))
        active = None if self._wish.force else self._active()
        if active is not None:
            return self._join(active)
        if self._session.kind == "local":
            self._open()  # while we plan
        facts, keep = self._decide()
        manifest = self._sink.newest() if facts["is_done"] else None
        if manifest is not None:
            return self._nothing(manifest)
        if self._session.kind == "modal":
            self._confirm(facts)
            self._open()
        return self._drive(keep)

    # -- before

    def _open(self) -> None:
        if self._app is not None and not self._is_opened:
            environment = self._session.environment
            self._client.send(do="open", app=self._app, environment=environment, detach=self._session.kind == "modal")
        self._is_opened = True

    def _source(self) -> Source:
        identities = str(self._target.state_path / "identities.db")
        return open_source(self._job, self._roots, identity_cache=identities, manifest_parts=live_parts)

    def _plan(self, *, keep: bool) -> Json:
        target, wish = self._target, self._wish
        identities = str(target.state_path / "identities.db")
        job = cut_job(self._job, self._sink.owner())
        source = open_source(job, target.roots, identity_cache=identities, manifest_parts=live_parts)
        request = runs.Request(run_id="", keep=keep, into_existing=wish.into_existing, adopt=wish.adopt)
        decides = leaves(self._job, [target.spec_dir])
        facts = plan_facts(self._job, self._sink, source, target.fingerprint, decides, request=request)
        self._console.event({"event": "plan", **facts}, [str(line) for line in plan_lines(facts, is_apply=True)])
        self.result["plan"] = facts
        return facts

    def _decide(self) -> tuple[Json, bool]:
        """The plan, and whether results of earlier code count."""
        wish = self._wish
        facts = self._plan(keep=wish.keep)
        n_old = facts["groups"]["code"]["splits"]
        if not n_old or wish.keep or wish.redo or wish.yes:
            return facts, wish.keep
        if self._console.can_ask:
            answers = {"redo": "do them again", "keep": "keep their results, do only what the input asks for"}
            if self._console.ask("code or image changed: redo or keep?", answers) == "keep":
                return self._plan(keep=True), True
        elif self._session.kind == "modal":
            raise UsageError(
                f"{text.count(n_old, 'split')} would be done again because code or image changed",
                hint="say --redo, or --keep to keep their results",
            )
        return facts, False

    def _confirm(self, facts: Json) -> None:
        if self._wish.yes:
            return
        if not self._console.can_ask:
            raise UsageError("running on Modal costs money: without a terminal it needs a yes", hint="add --yes")
        answers = {"yes": f"run {text.count(facts['todo']['splits'], 'split')} on Modal", "no": "stop here"}
        if self._console.ask("run it?", answers) == "no":
            raise UsageError("not confirmed: nothing was run")

    def _nothing(self, manifest: Manifest) -> int:
        """Nothing to do: sweep, restore `_SUCCESS` where it belongs, repeat the state's exit code."""
        self._client.kill()  # what it prepares is not needed
        sink, facts = self._sink, self._session.facts
        try:
            sweep(
                sink,
                manifest,
                timeout_s=self._job.compute.timeout_s,
                none_is_running=lambda: (
                    facts["kind"] == "local" and runs.none_is_running(sink, facts["home"], facts["id"])
                ),
            )
        except ModalbatchError as error:  # nothing hangs on it
            self._console.say(f"warning: the sweep failed, the next `apply` sweeps again: {error.message}")
        judged = judge(self._job, manifest.counts, is_final=True)
        if judged.code == 0:
            if (sink.success() or {}).get("manifest") != manifest.number and not mark_success(sink, manifest):
                raise BusyError("another run published meanwhile", hint="apply again")
        else:
            sink.unmark_success()  # a limit of the spec may have changed since
        runs.note_state(sink, judged.code)
        self._fetch()
        live = manifest.counts
        lines = [text.live_line(manifest, self._sink_label)]
        lines += text.next_lines(live.dead, self._sink_label)[: 1 if live.dead else 0]
        self._console.event({"event": "nothing_to_do"}, lines)
        if judged.error:
            self._console.event({"event": "error", **judged.error.to_json()}, judged.error.render().split("\n"))
        self.result |= {
            "status": "nothing_to_do",
            "exit_code": judged.code,
            "live": live.to_json(),
            "manifest": manifest.number,
            "error": judged.error.to_json() if judged.error else None,
        }
        return judged.code

    # -- another run

    def _active(self) -> Json | None:
        """The newest run of this sink that goes on now, as far as that can be known from here."""
        for run in reversed(list(runs.list_runs(self._sink))):
            if run["end"] is None and self._is_alive(run):
                return run
        return None

    def _is_alive(self, run: Json) -> bool:
        engine, facts = run["engine"], self._session.facts
        if engine.get("kind") == "local":
            # Runs end with their engine, and a home has one engine at a time. Of other machines nothing is known here.
            return facts["kind"] == "local" and (engine.get("home"), engine.get("id")) == (facts["home"], facts["id"])
        entries = self._sink.store.list(runs.run_object(run["run_id"], ""))
        return any(time.time() - entry.modified_s < SILENCE_S for entry in entries)

    def _join(self, run: Json) -> int:
        """Follow a run of the same job instead of starting another.

        Raises:
            BusyError: it is a run of another version of the job.
        """
        run_id, user = run["run_id"], run["user"] or "somebody"
        if run["fingerprint"] != self._target.fingerprint:
            raise BusyError(
                f"run {run_id} of {user} is active with another version of this job",
                hint=f"wait for it, stop it with `modalbatch cancel {run_id}`, or start beside it with --force",
            )
        self._console.say(f"run {run_id} of {user} is active: following it")
        return self.attach(run_id)

    def attach(self, run_id: str) -> int:
        """Follow a run that was started before; its exit code."""
        noted = [note.engine for note in run_notes(self._target.state_path) if note.run_id == run_id]
        order = {"call_id": (noted[-1] if noted else {}).get("call_id"), "request": {"run_id": run_id}}
        self._client.send(do="attach", **order, **self._common())
        return self._follow(run_id, is_ours=False)

    # -- a run of ours

    def _common(self) -> Json:
        return {"name": self._job.name, "environment": self._session.environment, "verbose": self._wish.verbose}

    def _drive(self, keep: bool) -> int:
        target, session, wish = self._target, self._session, self._wish
        request = runs.Request(
            run_id=new_run_id(),
            roots=self._stage() if session.kind == "modal" else dict(target.roots),
            engine=session.facts,
            containers=session.n_containers(self._job),
            keep=keep,
            retry=wish.retry,
            into_existing=wish.into_existing,
            adopt=wish.adopt,
            user=_user(),
            fingerprint=target.fingerprint,
            driver_life_s=_driver_life_s(),
            identity_cache=str(target.state_path / "identities.db") if session.kind == "local" else None,
        )
        self._note = RunNote(
            run_id=request.run_id,
            name=self._job.name,
            spec=str(target.spec_path),
            sink=target.sink_uri,
            roots=request.roots,
            engine=session.facts,
            started=time.time(),
        )
        self._note.write(target.state_path)
        self._client.send(do="drive", request=asdict(request), leave=wish.detach, **self._common())
        return self._follow(request.run_id, is_ours=True)

    def _stage(self) -> dict[str, str]:
        """Roots for containers on Modal, where nothing of this machine is."""
        roots = sink_roots(self._job)
        if self._wish.retry is None and any(is_local(uri) for uri in self._job.source.uris):
            inputs = (item for item in self._source().inputs() if is_local(item.uri))
            staged = stage(self._job, inputs, self._roots)
            roots |= staged.roots
            facts = {"files": staged.n_files, "uploaded": staged.n_uploaded, "bytes": staged.uploaded_bytes}
            size = text.quantity(staged.uploaded_bytes)
            line = f"staged: {text.count(staged.n_files, 'local file')}, {staged.n_uploaded:,} uploaded, {size}"
            self._console.event({"event": "staged", **facts}, [line])
        return roots

    def _fetch(self) -> None:
        """Bring results to the local folder that stands for the sink."""
        if self._mirror:
            n_files, n_bytes = self._mirror.fetch()
            line = f"fetched: {text.count(n_files, 'file')}, {text.quantity(n_bytes)} into {self._sink_label}"
            self._console.event({"event": "fetched", "files": n_files, "bytes": n_bytes}, [line] if n_files else [])

    def _follow(self, run_id: str, *, is_ours: bool) -> int:
        self.result["run_id"] = run_id
        end = Following(
            run_id,
            client=self._client,
            sink=self._sink,
            console=self._console,
            is_ours=is_ours,
            outlives_us=self._session.kind == "modal",
            on_tick=self._tell_notes,
            on_start=self._note_start,
        ).run()
        if end.outcome is not None:
            return self._sum_up(end.outcome)
        if end.how == "left":
            return self._left(run_id, 0 if self._wish.detach else 130)
        self._console.event({"event": "interrupted"}, [f"interrupted: {_AGAIN}"])
        self.result |= {"status": "interrupted", "exit_code": 130}
        return 130

    def _note_start(self, event: Json) -> bool:
        """Remember the call; whether to stay."""
        self._console.event(event)
        self._note = replace(
            self._note, engine={**self._note.engine, "app_id": event["app_id"], "call_id": event["call_id"]}
        )
        self._note.write(self._target.state_path)
        return not self._wish.detach

    def _left(self, run_id: str, code: int) -> int:
        lines = [f"run {run_id} goes on", f"next: modalbatch status {run_id} · logs {run_id} · cancel {run_id}"]
        self._console.event({"event": "detached", "run_id": run_id}, lines)
        self.result |= {"status": "running", "exit_code": code}
        return code

    def _sum_up(self, outcome: Json) -> int:
        """The last lines and the exit code."""
        self._console.close()
        code: int = outcome["exit_code"]
        manifest = self._newest() if outcome["status"] == "done" else None
        if manifest:
            self._fetch()
        lines = text.outcome_lines(outcome, manifest, self._sink_label)
        lines += [f"warning: {warning}" for warning in outcome.get("warnings", ())]
        error = outcome["error"]
        if outcome["status"] == "done":
            lines += text.next_lines(outcome["live"]["dead"], self._sink_label)
        if error:
            lines += [f"error: {error['message']}"] + [f"hint: {error['hint']}"] * bool(error["hint"])
        elif code == 130:
            lines.append(f"stopped: {_AGAIN}")
        self.result |= {key: value for key, value in outcome.items() if key not in ("event", "format")}
        self._console.event({**outcome, "event": "outcome"}, lines)
        return code

    def _newest(self) -> Manifest | None:
        try:
            self._sink.refresh()
            return self._sink.newest()
        except ModalbatchError:  # the run is over and its outcome known: a sink that cannot be read changes nothing
            return None

    def _tell_notes(self) -> None:
        for note in self._session.notes():
            if note not in self._notes:
                self._notes.add(note)
                self._console.say(f"note: {note}")


def new_run_id() -> str:
    """An id that sorts by time: `20261123-070501-a1b2c3`, UTC."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def _driver_life_s() -> float:
    """Well below the day after which Modal ends a function. MODALBATCH_DRIVER_LIFE shortens it for a rehearsal."""
    given = os.environ.get("MODALBATCH_DRIVER_LIFE", "22h")
    try:
        return parse_seconds(given)
    except ValueError as error:
        raise UsageError(f"MODALBATCH_DRIVER_LIFE is {error}", hint="MODALBATCH_DRIVER_LIFE=22h") from None


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
