"""The local engine: what an input costs and whom, how soon the first result is there, what waiting costs."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from measure import MODALBATCH, environ, gate, head, save, show, spread, workplace
from memory import descendants, rss_bytes

from modalbatch.engines.local import LocalEngine

APP = """\
import sys, time
import modal

app = modal.App("hello", image=modal.Image.debian_slim(python_version="{python}"))


@app.function()
def hello(x: int = 1) -> int:
    return x


@app.function(max_containers=1)
def wait(x: str) -> None:
    time.sleep(1000)


@app.local_entrypoint()
def main() -> None:
    print("RESULT", hello.remote(), flush=True)


def ready(*words) -> None:
    print("READY", *words, flush=True)
    sys.stdin.readline()


def many(n: int) -> None:
    with app.run():
        assert len(list(hello.map(range(200)))) == 200
        ready()
        assert sum(hello.map(range(n), order_outputs=False)) == sum(range(n))
        ready()


def pending(n: int) -> None:
    # Of inputs that somebody waits for, 2,000 may be queued.
    with app.run():
        wait.experimental_spawn_map(["x" * 200] * n)
        ready()
"""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time that a process has used so far; 0 when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) * TICK_S


def engine_pid(root: Path) -> int:
    """The engine of the home: a child of this process."""
    for pid in descendants(os.getpid())[1:]:
        if b"engines.local.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    sys.exit("the engine is gone")


@contextmanager
def client(root: Path, engine: LocalEngine, call: str) -> Iterator[subprocess.Popen[str]]:
    """A client in the app's module; it says READY and waits for a line."""
    command = [sys.executable, "-c", f"import hello; hello.{call}"]
    with subprocess.Popen(
        command,
        cwd=root,
        env=environ(root) | engine.environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def await_ready(process: subprocess.Popen[str], go_on: bool) -> None:
    """Waits for READY; `go_on` answers the one before."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    if go_on:
        process.stdin.write("\n")
        process.stdin.flush()
    if not process.stdout.readline().startswith("READY"):
        sys.exit(f"the client failed:\n{process.stderr.read()}")


def cost(root: Path, engine: LocalEngine, n_inputs: int) -> dict[str, float]:
    """CPU seconds per input of a map of nothing, by who used them, and inputs per second."""

    def sample() -> dict[str, float]:
        below = [pid for pid in descendants(main_pid) if pid != main_pid]
        return {
            "client": cpu_s(process.pid),
            "engine": cpu_s(main_pid),
            "containers": sum(map(cpu_s, below)),
            "wall": time.perf_counter(),
        }

    main_pid = engine_pid(root)
    with client(root, engine, f"many({n_inputs})") as process:
        await_ready(process, go_on=False)
        before = sample()
        await_ready(process, go_on=True)
        after = sample()
    return {name: (after[name] - before[name]) / n_inputs for name in before}


def first_result_s(root: Path, command: Sequence[str], extra: dict[str, str]) -> float:
    """Seconds from the start of a command to its first line."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=root, env=environ(root) | extra, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took_s = time.perf_counter() - start
        _, errors = process.communicate()
    if not line.startswith("RESULT"):
        sys.exit(f"{' '.join(command)} failed:\n{line}{errors}")
    return took_s


def waiting_bytes(root: Path, engine: LocalEngine, n_inputs: int) -> int:
    """Resident memory of the engine while inputs wait."""
    with client(root, engine, f"pending({n_inputs})") as process:
        await_ready(process, go_on=False)
        return rss_bytes(engine_pid(root))


def idle_share(root: Path, seconds: float) -> float:
    """CPU that the engine uses while nothing happens, as a share of one core."""
    pid = engine_pid(root)
    before = cpu_s(pid)
    time.sleep(seconds)
    return (cpu_s(pid) - before) / seconds


def main() -> int:
    """Measure, print, judge; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=3000, help="of the map whose inputs are weighed")
    parser.add_argument("--waiting", type=int, default=10_000, help="inputs in flight while memory is weighed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to FILE")
    args = parser.parse_args()
    with workplace() as root:
        (root / "hello.py").write_text(APP.replace("{python}", f"{sys.version_info[0]}.{sys.version_info[1]}"))
        os.environ["MODALBATCH_CACHE"] = environ(root)["MODALBATCH_CACHE"]
        modal = [sys.executable, "-m", "modal", "run", "-q", "hello.py"]
        local = [MODALBATCH, "local", "--", *modal]
        first_result_s(root, local, {})  # bytecode, the image's environment
        cold = [first_result_s(root, local, {}) for _ in range(args.rounds)]
        with LocalEngine(root / "home") as engine:
            first_result_s(root, modal, engine.environ())
            warm = [first_result_s(root, modal, engine.environ()) for _ in range(args.rounds)]
            costs = [cost(root, engine, args.inputs) for _ in range(args.rounds)]
            idle = idle_share(root, args.idle)
        with LocalEngine(root / "home") as engine:
            memory_bytes = waiting_bytes(root, engine, args.waiting)
    head()
    show("modal run, no engine, first result", cold)
    show("modal run, an engine is up, first result", warm)
    for name in ("client", "engine", "containers"):
        show(f"cpu per input, {name}", [1000 * item[name] for item in costs], "ms")
    show("inputs per second", [1 / item["wall"] for item in costs], "")
    gates = [
        gate("engine, cpu per input, ms", 1000 * spread([item["engine"] for item in costs])["median"], 1.3),
        gate("first result, no engine, s", spread(cold)["median"], 2.5),
        gate("first result, an engine is up, s", spread(warm)["median"], 1.0),
        gate(f"engine, {args.waiting} inputs in flight, MB", memory_bytes / 1e6, 150),
        gate("engine, idle, % of a core", 100 * idle, 1.0),
    ]
    save(args.json, {"cold_s": cold, "warm_s": warm, "costs": costs, "memory_bytes": memory_bytes, "gates": gates})
    return 0 if all(item["ok"] for item in gates) else 1


if __name__ == "__main__":
    sys.exit(main())
