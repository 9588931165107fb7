"""The words of a plan, exactly."""

from __future__ import annotations

from modalbatch.driver.tally import Reasons
from modalbatch.report.plan import plan_lines

NONE = {"splits": 0, "inputs": 0, "bytes": 0, "examples": []}


def facts(**groups) -> dict:
    found = dict.fromkeys(Reasons._fields, NONE) | groups
    todo = [found[name] for name in ("new", "input", "code", "packed", "lost")]
    return {
        "name": "embed",
        "fingerprint": "0123456789abcdef",
        "manifest": 6,
        "inputs": 3,
        "splits": 4,
        "bytes": 5,
        "todo": {"splits": sum(group["splits"] for group in todo), "bytes": sum(group["bytes"] for group in todo)},
        "is_done": False,
        "on_removed": "keep",
        "changed_keys": [],
        "groups": found,
    }


def group(splits: int, inputs: int, n_bytes: int, *examples: str) -> dict:
    return {"splits": splits, "inputs": inputs, "bytes": n_bytes, "examples": list(examples)}


def text(plan: dict) -> list[str]:
    return [str(line) for line in plan_lines(plan)]


def test_all_reasons() -> None:
    names = [f"data/{letter}.jsonl" for letter in "abcde"]
    plan = facts(
        new=group(12, 1007, 3 << 20, *names),
        input=group(2, 1, 2048, "data/x.jsonl"),
        code=group(310, 9, 1 << 30, *names),
        packed=group(3, 3, 30, "y", "z"),
        lost=group(1, 1, 7, "w"),
        kept=group(1, 1, 1, "v"),
        removed=group(0, 2, 0, "gone", "gone2"),
    )
    plan["changed_keys"] = ["handlers.py", "lib/a.py", "env.MODE"]
    assert text(plan) == [
        "embed: 3 inputs, 4 splits, 5 bytes · fingerprint 01234567 · manifest 6",
        "  + new: 12 splits, 3.0 MiB: data/a.jsonl, data/b.jsonl, data/c.jsonl, data/d.jsonl, data/e.jsonl"
        " and 1,002 more",
        "  ~ changed: 2 splits, 2.0 KiB: input changed (data/x.jsonl)",
        "  ~ changed: 310 splits, 1.0 GiB: handler changed (handlers.py, lib/a.py), env.MODE changed",
        "  ~ changed: 3 splits, 30 bytes: processed together with an input that changed (y, z and 1 more)",
        "  ~ lost: 1 split, 7 bytes: their output is not in the sink any more (w)",
        "  = kept: 1 split, 1 bytes",
        "  - 2 removed: gone, gone2; output kept (source.on_removed: keep)",
        "apply would process 328 splits, 1.0 GiB, and publish manifest 7",
    ]
    assert str(plan_lines(plan, is_apply=True)[-1]) == "processing 328 splits, 1.0 GiB, for manifest 7"


def test_removed_output_and_nothing_else() -> None:
    plan = facts(removed=group(0, 1, 0, "gone")) | {"on_removed": "drop"}
    assert text(plan)[1:] == [
        "  - 1 removed: gone; output dropped (source.on_removed: drop)",
        "apply would publish manifest 7; nothing is to be processed",
    ]


def test_what_an_old_run_did_not_say() -> None:
    plan = facts(code=group(1, 1, 1, "a"))
    reason = "the handler, the image or an option that decides data changed"
    assert text(plan)[1] == f"  ~ changed: 1 split, 1 bytes: {reason}"


def test_nothing() -> None:
    assert text(facts() | {"is_done": True})[-1] == "nothing to do: manifest 6 says all of it"
