"""Every way to call a function."""

import asyncio
import json
import os
import sys
import time

import modal

app = modal.App("calls", tags={"team": "search"})


def result(**values):
    print("RESULT " + json.dumps(values))


@app.function()
def square(x, plus=0):
    return x * x + plus


@app.function()
async def later(x):
    await asyncio.sleep(0.001)
    return x + 1


@app.function()
@modal.concurrent(max_inputs=10)
async def together(x):
    await asyncio.sleep(0.1)
    return modal.current_input_id() is not None and os.environ["MODAL_TASK_ID"]


@app.cls(max_containers=1)
class Worker:
    size: int = modal.parameter(default=1)

    @modal.enter()
    def open(self):
        self.log = [f"enter {self.size}"]

    @modal.method()
    def work(self, x):
        self.log.append(f"work {x}")
        return self.log

    @modal.exit()
    def close(self):
        print(f"exit {self.size} after {len(self.log)}", flush=True)


@app.function()
def steps(x):
    yield from range(x)


@app.function()
async def drive(n, window):
    """The shape of a driver: a bounded feed mapped from inside a container."""
    slots, read, done, ahead = asyncio.Semaphore(window), 0, 0, 0

    async def feed():
        nonlocal read
        for i in range(n):
            await slots.acquire()
            read += 1
            yield i

    total = failed = 0
    async for r in work.map.aio(feed(), order_outputs=False, return_exceptions=True):
        done += 1
        ahead = max(ahead, read - done)
        slots.release()
        failed += isinstance(r, ValueError)
        total += r if isinstance(r, int) else 0
    return {"total": total, "failed": failed, "ahead": ahead}


@app.function()
def work(x):
    if x == 3:
        raise ValueError("three")
    return x


@app.local_entrypoint()
def main(number: int, word: str = "none"):
    first = time.time()
    outcomes = {
        "remote": square.remote(number, plus=1),
        "word": word,
        "map": list(square.map(range(5))),
        "unordered": sorted(square.map(range(120), order_outputs=False))[-1],
        "starmap": list(square.starmap([(1, 1), (2, 2)])),
        "later": list(later.map([1, 2])),
        "together": len(set(together.map(range(10)))),
    }
    calls = [square.spawn(i) for i in range(3)]
    outcomes["gather"] = list(modal.FunctionCall.gather(*calls))
    outcomes["from_id"] = modal.FunctionCall.from_id(calls[2].object_id).get()
    a, b = Worker(), Worker(size=2)
    outcomes["class"] = [a.work.remote("p"), a.work.remote("q"), b.work.remote("r")]
    outcomes["driver"] = drive.remote(40, 7)
    outcomes["big"] = len(echo.remote(b"x" * 3_000_000))
    outcomes["generator"] = list(steps.remote_gen(2))
    outcomes["tags"] = dict(app.get_tags())
    app.set_tags({"team": "ads"})
    outcomes["new_tags"] = dict(app.get_tags())
    outcomes["seconds"] = time.time() - first
    result(**outcomes)


@app.function()
def echo(x):
    return x


@app.local_entrypoint()
def where():
    result(**look.remote())


@app.function()
def look():
    return {
        "environ": sorted(os.environ),
        "path": [entry for entry in sys.path if "site-packages" in entry],
        "pid": os.getpid(),
        "processes": [entry for entry in os.listdir("/proc") if entry.isdigit()],
        "remote": not modal.is_local(),
        "version": modal.__version__,
        "engine": os.environ["MODALBATCH_LOCAL_ENGINE"],
        "user_packages": [
            name for name in ("pytest", "uv", "boto3") if __import__("importlib.util").util.find_spec(name)
        ],
    }
