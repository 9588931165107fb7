"""Who lives as long as whom: commands, clients, the engine, fork servers, containers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_bench import APPS, Bench, await_none, processes_of, run_folder

from modalbatch.engines.local import LocalEngine, run_command

_NAP = (
    "import modal, trouble\n"
    "with trouble.app.run():\n    call = trouble.nap.spawn(1000)\n    print('STARTED', flush=True)\n    call.get()\n"
)


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _sleepers():
    return {
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and _command(int(folder.name)) == "sleep 1000 "
    }


@pytest.fixture
def napping(home):
    """A client whose container sleeps and has started a process of its own."""
    before = _sleepers()
    with LocalEngine(home) as engine:
        client = Bench(home, engine).start(sys.executable, "-c", _NAP)
        while not _sleepers() - before:
            time.sleep(0.01)
        yield home, client
        client.kill()
        client.wait()
        client.stdout.close()
    await_none(home)
    while _sleepers() - before:
        time.sleep(0.01)


def _pid(home, word):
    return min(pid for pid in processes_of(home) if word in _command(pid))


def _await_content(path):
    while not path.exists() or not path.stat().st_size:
        time.sleep(0.01)


def _kill_and_await(home, pid):
    """Kills a fork server or a container's main process; returns when the newest process of now is gone."""
    newest = max(processes_of(home))
    os.kill(pid, signal.SIGKILL)
    while newest in processes_of(home):
        time.sleep(0.01)


def test_a_killed_client_takes_its_app_along(napping):
    home, client = napping
    client.kill()
    while len(processes_of(home)) > 2:  # the engine and a fork server stay
        time.sleep(0.01)


def test_an_interrupted_client_takes_its_app_along(napping):
    home, client = napping
    client.send_signal(signal.SIGINT)
    client.wait()
    while len(processes_of(home)) > 2:
        time.sleep(0.01)


def test_a_killed_engine_takes_everything_along_and_is_swept(napping):
    home, _ = napping
    folder = run_folder(home)
    os.kill(_pid(home, "engines.local.main"), signal.SIGKILL)
    await_none(home)
    assert folder.exists()
    with LocalEngine(home):
        assert not folder.exists()


def test_a_killed_fork_server_is_replaced_and_its_input_runs_again(home):
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        bench.modal("deploy", "trouble.py")
        client = bench.start(
            sys.executable, "-c",
            "import modal, time\n"
            "print(modal.Function.from_name('trouble', 'crash').remote('warm', 0))\n"
            f"call = modal.Function.from_name('trouble', 'wait_for').spawn('{home}/file')\n"
            "print('RESULT', call.get())\n",
        )  # fmt: skip
        counter = home / "file.started"
        _await_content(counter)
        _kill_and_await(home, _pid(home, "guest_forkserver"))
        (home / "file").write_text("go")
        output, _ = client.communicate()
        assert "RESULT 2" in output


def test_a_killed_container_is_as_a_preemption(home):
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        bench.modal("deploy", "trouble.py")
        wait = f"modal.Function.from_name('trouble', 'wait_for').remote('{home}/file')"
        source = f"import modal\nprint('RESULT', {wait})\n"
        client = bench.start(sys.executable, "-c", source)
        counter = home / "file.started"
        _await_content(counter)
        _kill_and_await(home, max(pid for pid in processes_of(home) if "guest_forkserver" in _command(pid)))
        (home / "file").write_text("go")
        output, _ = client.communicate()
        assert "RESULT 2" in output


def test_a_container_that_stands_still_is_replaced(home):
    with LocalEngine(home, silence_s=4.0) as engine:  # the runtime is silent for 3 s between two heartbeats
        bench = Bench(home, engine)
        bench.modal("deploy", "trouble.py")
        wait = f"modal.Function.from_name('trouble', 'wait_for').remote('{home}/file')"
        source = f"import modal\nprint('RESULT', {wait})\n"
        client = bench.start(sys.executable, "-c", source)
        counter = home / "file.started"
        _await_content(counter)
        os.kill(max(pid for pid in processes_of(home) if "guest_forkserver" in _command(pid)), signal.SIGSTOP)
        while counter.stat().st_size < 2:
            time.sleep(0.05)
        (home / "file").write_text("go")
        output, _ = client.communicate()
        assert "RESULT 2" in output
        assert "was ended: it was not heard of for too long" in bench.modal("app", "logs", "trouble")


_ACKNOWLEDGED = """
import modal
done = modal.Function.from_name('trouble', 'crash').spawn('done', 0)
done.get()
many = modal.Queue.from_name('q', create_if_missing=True)
many.put_many([1, 2, 3]); many.put(4, partition='p'); many.get()
modal.Dict.from_name('d', create_if_missing=True)['k'] = 'v'
call = modal.Cls.from_name('trouble', 'Waiter')(path={0!r} + '/file').wait.spawn()
stopped = modal.Cls.from_name('trouble', 'Waiter')(path={0!r} + '/other').wait.spawn()
stopped.cancel()
print('CALLS', done.object_id, call.object_id, stopped.object_id)
"""
_REMEMBERED = """
import modal
many = modal.Queue.from_name('q')
print('QUEUE', many.get_many(5), many.get(partition='p'), many.len(total=True), modal.Dict.from_name('d')['k'])
print('DONE', modal.FunctionCall.from_id({0!r}).get())
print('CALL', modal.FunctionCall.from_id({1!r}).get())
try:
    modal.FunctionCall.from_id({2!r}).get()
except Exception as error:
    print('STOPPED', type(error).__name__)
"""


def test_what_was_acknowledged_survives_a_killed_engine_and_one_that_ends(home):
    with LocalEngine(home) as engine:
        bench = Bench(home, engine)
        bench.modal("deploy", "trouble.py")
        calls = bench.python(_ACKNOWLEDGED.format(str(home))).split("CALLS ")[1].split()
        _await_content(home / "file.started")
        os.kill(_pid(home, "engines.local.main"), signal.SIGKILL)
        await_none(home)
    with LocalEngine(home):
        while (home / "file.started").stat().st_size < 2:
            time.sleep(0.01)
    (home / "file").write_text("go")
    with LocalEngine(home) as engine:
        output = Bench(home, engine).python(_REMEMBERED.format(*calls))
        assert "QUEUE [2, 3] 4 0 v\nDONE 1\nCALL 3\nSTOPPED RemoteError\n" in output


def test_one_engine_per_home(home):
    with LocalEngine(home) as first:
        with LocalEngine(home) as second:
            assert second.engine_id == first.engine_id
        assert "main" in Bench(home, first).modal("environment", "list")
    assert processes_of(home) == []
    assert not (home / "engine.json").exists()


def test_many_commands_at_once_share_one_engine(home):
    source = (
        "import sys; from pathlib import Path; from modalbatch.engines.local import LocalEngine\n"
        f"with LocalEngine(Path({str(home)!r})) as e: print(e.engine_id, e.home_id, flush=True); sys.stdin.read()"
    )
    commands = [
        subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    said = {command.stdout.readline() for command in commands}
    assert len(said) == 1
    for command in commands:
        command.communicate("")
    assert processes_of(home) == []


def test_run_command_returns_the_exit_code(home, capfd):
    assert run_command(home, [sys.executable, "-c", "import os; print(os.environ['MODAL_SERVER_URL']); exit(7)"]) == 7
    assert capfd.readouterr().out.startswith("unix:///")
    assert run_command(home, [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


def test_signals_go_to_the_command_once(home):
    source = (
        "import sys; from pathlib import Path; from modalbatch.engines.local import run_command\n"
        f"sys.exit(run_command(Path({str(home)!r}), [sys.executable, '-c', {_NAP!r}]))"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=APPS
    )
    assert command.stdout.readline() == "STARTED\n"
    command.send_signal(signal.SIGINT)
    command.communicate()  # modal takes Ctrl-C for a regular end
    assert command.returncode == 0
    assert processes_of(home) == []


def _detach(home):
    """A command whose app is detached, when it has ended and its call has not."""
    source = (
        "import trouble\n"
        f"with trouble.app.run(detach=True):\n    trouble.wait_for.spawn('{home}/file')\n"
        f"    while not __import__('os').path.exists('{home}/file.started'): pass\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-m", "modalbatch", "local", "--", sys.executable, "-c", source],
        env=os.environ | {"MODALBATCH_HOME": str(home)},
        stderr=subprocess.PIPE, text=True, cwd=APPS,
    )  # fmt: skip
    line = command.stderr.readline()
    assert line == "note: trouble: detached, goes on; waiting for its end, Ctrl-C ends it now\n"
    return command


def test_a_command_waits_for_its_detached_app(home):
    command = _detach(home)
    assert command.poll() is None
    (home / "file").write_text("go")
    command.communicate()
    assert command.returncode == 0
    assert processes_of(home) == []


def test_an_interrupt_ends_a_detached_app(home):
    command = _detach(home)
    command.send_signal(signal.SIGINT)
    command.communicate()
    assert command.returncode == 130
    assert processes_of(home) == []


def test_a_killed_command_leaves_nothing(home):
    source = (
        "import sys; from pathlib import Path; from modalbatch.engines.local import run_command\n"
        f"sys.exit(run_command(Path({str(home)!r}), [sys.executable, '-c', {_NAP!r}]))"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=APPS
    )
    assert command.stdout.readline() == "STARTED\n"
    folder = run_folder(home)
    command.kill()
    command.communicate()
    await_none(home)
    while folder.exists():
        time.sleep(0.01)


def test_a_command_does_not_outlive_its_engine(home):
    source = (
        "import sys; from pathlib import Path; from modalbatch.engines.local import run_command\n"
        f"run_command(Path({str(home)!r}), [sys.executable, '-c', {_NAP!r}])"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=APPS
    )
    assert command.stdout.readline() == "STARTED\n"
    folder = run_folder(home)
    os.kill(_pid(home, "engines.local.main"), signal.SIGKILL)
    assert "UnavailableError: the local engine has ended unexpectedly" in command.communicate()[0]
    assert not folder.exists()


def test_elsewhere_than_on_linux_it_says_so(home):
    source = (
        "import sys; from pathlib import Path; from modalbatch.engines.local import LocalEngine\n"
        f"sys.platform = 'darwin'; LocalEngine(Path({str(home)!r})).__enter__()"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert "UnavailableError: the local engine needs Linux" in done.stderr
    assert list(home.iterdir()) == []
