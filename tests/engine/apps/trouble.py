"""Everything that goes wrong."""

import json
import os
import subprocess
import time

import modal

app = modal.App("trouble")
notes = modal.Dict.from_name("trouble-notes", create_if_missing=True)


def result(**values):
    print("RESULT " + json.dumps(values))


def attempts(name):
    """Counts, across containers, how often something was tried."""
    n = notes.get(name, 0) + 1
    notes[name] = n
    return n


def outcome(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@app.function(retries=modal.Retries(max_retries=2, initial_delay=0.0, backoff_coefficient=1.0))
def flaky(name, fails):
    n = attempts(name)
    if n <= fails:
        raise RuntimeError(f"attempt {n}")
    return n


@app.function()
def fail():
    raise KeyError("missing")


@app.function()
def crash(name, crashes):
    n = attempts(name)
    if n <= crashes:
        os._exit(7)
    return n


@app.function(timeout=1)
def hang(x):
    time.sleep(x)
    return x


@app.function()
def nap(x):
    subprocess.Popen(["sleep", "1000"])
    time.sleep(x)


@app.function()
def wait_for(path):
    """Waits for a file of this machine; the number of the attempt that saw it."""
    with open(f"{path}.started", "a") as file:
        file.write("x")
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.path.getsize(f"{path}.started")


@app.cls()
class Waiter:
    path: str = modal.parameter()

    @modal.method()
    def wait(self):
        return wait_for.local(self.path)


@app.function()
def leave_behind():
    """Starts a process in a session of its own; its id."""
    return subprocess.Popen(["sleep", "2000"], start_new_session=True).pid


@app.cls()
class Broken:
    @modal.enter()
    def open(self):
        raise RuntimeError("cannot load the model")

    @modal.method()
    def work(self, x):
        return x


@app.function(startup_timeout=1)
def fine():
    return 1


@app.cls(startup_timeout=1)
class Slow:
    @modal.enter()
    def open(self):
        time.sleep(1000)

    @modal.method()
    def work(self, x):
        return x


def leave_early():
    """Breaks out of a map whose other inputs would run for ever; how many came first."""
    return next(iter(nap.map([0, 1000, 1000], order_outputs=False)))


@app.local_entrypoint()
def main():
    fresh = str(time.time())
    poll = nap.spawn(100)
    outcomes = {
        "fail": outcome(fail.remote),
        "client_retries": flaky.remote(f"{fresh}a", 2),
        "map_retries": list(flaky.starmap([(f"{fresh}b", 1), (f"{fresh}c", 0)])),
        "server_retries": flaky.spawn(f"{fresh}d", 2).get(),
        "too_many": outcome(lambda: flaky.spawn(f"{fresh}e", 9).get()),
        "crash_once": crash.remote(f"{fresh}f", 1),
        "crash_twice": outcome(lambda: crash.remote(f"{fresh}g", 2)),
        "timeout": outcome(lambda: hang.remote(100)),
        "after_timeout": hang.remote(0),
        "enter": outcome(lambda: list(Broken().work.map(range(3)))),
        "enter_again": outcome(lambda: Broken().work.remote(1)),
        "poll": outcome(lambda: poll.get(timeout=0)),
        "started": fine.remote(),
        "slow_start": outcome(lambda: Slow().work.remote(1)),
        "left_early": leave_early(),
    }
    poll.cancel()
    outcomes["cancelled"] = outcome(poll.get)
    again = nap.spawn(100)
    again.cancel(terminate_containers=True)
    outcomes["terminated"] = outcome(again.get)
    result(**outcomes)


@app.local_entrypoint()
def broken_only():
    Broken().work.remote(1)
