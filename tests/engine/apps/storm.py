"""Inputs that fail in every way, on an engine that adds faults of its own."""

import json
import os
import random
import time

import modal

app = modal.App("storm")
marks = modal.Dict.from_name("storm-marks", create_if_missing=True)
VALUE, RAISES, RAISES_ONCE, EXITS_ONCE, HANGS_ONCE = "value", "raises", "raises once", "exits once", "hangs once"


def behaviours(n):
    """What each of `n` inputs does."""
    kinds = {VALUE: 0.938, RAISES: 0.02, RAISES_ONCE: 0.03, EXITS_ONCE: 0.01, HANGS_ONCE: 0.002}
    drawn = random.Random(11).choices(list(kinds), list(kinds.values()), k=n)
    return [*drawn[:-4], RAISES, RAISES_ONCE, EXITS_ONCE, HANGS_ONCE]


@app.function(retries=modal.Retries(max_retries=9, initial_delay=0.0), timeout=2)
def weather(name, number, behaviour):
    if behaviour == RAISES:
        raise ValueError(number)
    if behaviour != VALUE and marks.put(f"{name}-{number}", True, skip_if_exists=True):
        if behaviour == RAISES_ONCE:
            raise ValueError(number)
        if behaviour == EXITS_ONCE:
            os._exit(3)
        time.sleep(1000)
    return number


@app.function(timeout=2)
def once(name):
    """How often it has run, without any retry."""
    marks[name] = marks.get(name, 0) + 1
    return marks[name]


@app.function()
def meet(name, n):
    """Waits until `n` containers run it."""
    marks[f"{name}-{os.environ['MODAL_TASK_ID']}"] = True
    while len(found := [mark for mark in marks.keys() if mark.startswith(name)]) < n:  # noqa: SIM118
        time.sleep(0.01)
    return len(found)


def outcome(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@app.local_entrypoint()
def each(n: int = 4):
    found = {
        "remote": outcome(lambda: once.remote("remote")),
        "map": [str(item) for item in once.map([f"map{i}" for i in range(n)], return_exceptions=True)],
        "spawn": outcome(once.spawn("spawn").get),
    }
    print("RESULT " + json.dumps(found))


@app.local_entrypoint()
def twice():
    found = {"alone": meet.remote("alone", 2), "map": list(meet.starmap([("m", 2), ("n", 2)]))}
    print("RESULT " + json.dumps(found))


@app.local_entrypoint()
def main(n: int):
    kinds = behaviours(n)
    found = {"n": n}
    start = time.time()
    for name, is_ordered in (("ordered", True), ("unordered", False)):
        inputs = [(name, number, kind) for number, kind in enumerate(kinds)]
        outcomes = list(weather.starmap(inputs, order_outputs=is_ordered, return_exceptions=True))
        right = [number if kind != RAISES else f"ValueError {number}" for number, kind in enumerate(kinds)]
        seen = [item if isinstance(item, int) else f"{type(item).__name__} {item}" for item in outcomes]
        if not is_ordered:
            right, seen = sorted(right, key=str), sorted(seen, key=str)
        found[name] = {
            "n": len(seen),
            "wrong": [pair for pair in zip(right, seen, strict=False) if pair[0] != pair[1]][:20],
        }
    found["seconds"] = time.time() - start
    print("RESULT " + json.dumps(found))
