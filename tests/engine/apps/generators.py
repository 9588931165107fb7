"""Functions that yield."""

import asyncio
import itertools
import json
import os
import time

import modal

app = modal.App("generators")
notes = modal.Dict.from_name("generators-notes", create_if_missing=True)


def result(**values):
    print("RESULT " + json.dumps(values))


def read(items):
    """What comes before the end, and what the end is."""
    got = []
    try:
        for item in items:
            got.append(item)
    except Exception as error:
        return [got, f"{type(error).__name__}: {error}"]
    return [got, None]


@app.function()
def steps(n):
    yield from range(n)


@app.function()
async def later(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@app.function()
def parts(sizes):
    for size in sizes:
        yield b"x" * size


@app.function()
def fail_after(n, size):
    for _ in range(n):
        yield "x" * size
    raise KeyError("missing")


@app.function()
def crash_once(name, n):
    """Ends its container in the middle, the first time."""
    for i in range(n):
        if i == 3 and notes.put(name, True, skip_if_exists=True):
            os._exit(7)
        yield i


@app.function(max_containers=1)
def endless():
    while True:
        yield os.environ["MODAL_TASK_ID"]
        time.sleep(0.01)


@app.function(max_containers=1)
def stuck():
    """Ignores that it is interrupted."""
    yield os.environ["MODAL_TASK_ID"]
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            continue


@app.function(max_containers=1)
async def endless_later():
    for i in itertools.count():
        await asyncio.sleep(0.01)
        yield i


@app.cls()
class Counter:
    start: int = modal.parameter(default=0)

    @modal.method()
    def up(self, n):
        yield from range(self.start, self.start + n)

    @modal.method()
    async def down(self, n):
        for i in range(n):
            yield self.start - i


@app.function()
def relay(n):
    """A generator that reads one, in a container."""
    for i in steps.remote_gen(n):
        yield 10 * i


@app.function()
async def total(n):
    return sum([i async for i in later.remote_gen.aio(n)])


async def read_later(n):
    return [i async for i in steps.remote_gen.aio(n)], [i async for i in later.remote_gen.aio(n)]


async def leave_later():
    last = None
    async for i in endless_later.remote_gen.aio():
        last = i
        if i == 5:
            break
    return last


@app.local_entrypoint()
def main(fresh: str):
    outcomes = {
        "sync": list(steps.remote_gen(5)),
        "none": list(steps.remote_gen(0)),
        "async": list(later.remote_gen(5)),
        "aio": asyncio.run(read_later(4)),
        "many": list(steps.remote_gen(400)) == list(range(400)),
        "method": list(Counter(start=7).up.remote_gen(3)),
        "async_method": list(Counter().down.remote_gen(3)),
        "nested": list(relay.remote_gen(3)),
        "nested_async": total.remote(10),
        "large": [len(part) for part in parts.remote_gen([10, 3_000_000, 1_000_000])],
        "crash": list(crash_once.remote_gen(fresh, 6)),
    }
    got, outcomes["error"] = read(fail_after.remote_gen(30, 1))
    outcomes["before_error"] = len(got)
    got, outcomes["large_error"] = read(fail_after.remote_gen(3, 3_000_000))
    outcomes["before_large_error"] = len(got)
    result(**outcomes)


@app.local_entrypoint()
def leave():
    """Callers that stop early; the containers must be free for the next."""
    result(
        served=len([next(iter(endless.remote_gen())) for _ in range(2)]),
        containers=len({next(iter(stuck.remote_gen())) for _ in range(2)}),
        later=[asyncio.run(leave_later()) for _ in range(2)],
    )


@app.local_entrypoint()
def slow():
    """A caller that does something else in the middle."""
    items = iter(parts.remote_gen([1_000_000] * 20))
    first = len(next(items))
    others = sum(steps.remote_gen(20))
    result(total=first + sum(map(len, items)), others=others)
