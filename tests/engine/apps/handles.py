"""What can be asked of a call and of a function."""

import json

import modal

app = modal.App("handles")


@app.function()
def square(x):
    if x == -1:
        raise ValueError("not this one")
    return x * x


@app.function(max_containers=1)
def limited(x):
    return x


@app.function()
@modal.batched(max_batch_size=2, wait_ms=10)
def batch(xs):
    return [len(xs)] * len(xs)


@app.cls()
class Scale:
    by: int = modal.parameter(default=1)

    @modal.method()
    def up(self, x):
        return self.by * x


def outcome(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def settings(found):
    return [found.min_containers, found.max_containers, found.scaledown_window]


def calls():
    many = square.experimental_spawn_map(range(120))
    again = modal.FunctionCall.from_id(many.object_id)
    one, bad = square.spawn(4), square.spawn(-1)
    return {
        "for_each": square.for_each(range(3)),
        "ignored": square.for_each([1, -1, 2], ignore_exceptions=True),
        "raised": outcome(lambda: square.for_each([1, -1])),
        "spawn_map": square.spawn_map(range(3)),
        "n_inputs": [many.num_inputs(), again.num_inputs(), one.num_inputs()],
        "index": [many.get(index=7), again.get(index=119)],
        "iter": [sum(many.iter()), list(again.iter(start=100, end=102))],
        "gather": list(modal.FunctionCall.gather(one, square.spawn(5))),
        "gather_raised": outcome(lambda: modal.FunctionCall.gather(one, bad)),
        "graph": [
            [
                (node.function_name, node.module_name, node.status.name, len(node.children))
                for node in call.get_call_graph()
            ]
            for call in (one, bad)
        ],
        "many_graph": len(many.get_call_graph()),
    }


def variants():
    return {
        "options": square.with_options(timeout=50, max_containers=2).remote(3),
        "concurrency": square.with_concurrency(max_inputs=3).remote(3),
        "batching": list(batch.with_batching(max_batch_size=3, wait_ms=10_000).map(range(3))),
        "class_options": Scale.with_options(timeout=50)(by=5).up.remote(2),
        "class_concurrency": Scale.with_concurrency(max_inputs=4)(by=6).up.remote(2),
    }


def functions():
    limited.remote(1)
    outcome(lambda: square.remote(-1))
    stats, current = square.stats(), limited.get_current_stats()
    rollup = square.stats(all_variants=True)
    return {
        "stats": [stats.input_success_count, stats.input_failure_count, stats.container_error_count],
        "rollup": rollup.input_success_count - stats.input_success_count,
        "current": [current.backlog, current.num_running_inputs, current.input_headroom == current.num_total_runners],
        "autoscaler": [
            settings(limited.autoscaler.settings()),
            settings(limited.autoscaler.update(min_containers=1, scaledown_window=20)),
            settings(limited.autoscaler.update(max_containers=None, min_containers=0)),
            settings(limited.autoscaler.settings()),
        ],
    }


@app.local_entrypoint()
def main():
    print("RESULT " + json.dumps(calls() | variants()))


@app.local_entrypoint()
def numbers():
    calls()
    variants()
    print("RESULT " + json.dumps(functions()))
