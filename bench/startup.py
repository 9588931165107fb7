"""Start-up: what commands cost before they do anything, and where the time of a ten-record run goes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from measure import MODALBATCH, Timing, apply, gate, head, run, save, show, spread, workplace, write_job

HELLO = """\
import modal

app = modal.App("hello", image=modal.Image.debian_slim(python_version="{python}"))


@app.function()
def hello() -> int:
    return 1


@app.local_entrypoint()
def main() -> None:
    hello.remote()
"""


def main() -> int:
    """Measure, print, judge; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to FILE")
    args = parser.parse_args()
    with workplace() as root:
        spec = write_job(root / "job", records=10, line_bytes=192, containers=2)
        hello = root / "hello.py"
        hello.write_text(HELLO.format(python=f"{sys.version_info[0]}.{sys.version_info[1]}"))
        modal = [sys.executable, "-m", "modal", "run", "-q", str(hello)]
        commands: dict[str, Callable[[], Timing]] = {
            "python -c pass": lambda: run(root, [sys.executable, "-c", "pass"]),
            "import click, yaml, jsonschema": lambda: run(
                root, [sys.executable, "-c", "import click, yaml, jsonschema"]
            ),
            "modalbatch --help": lambda: run(root, [MODALBATCH, "--help"]),
            "modalbatch validate": lambda: run(root, [MODALBATCH, "validate", str(spec)]),
            "modalbatch compile": lambda: run(root, [MODALBATCH, "compile", str(spec)]),
            "modalbatch local -- true": lambda: run(root, [MODALBATCH, "local", "--", "true"]),
            "modalbatch local -- modal run": lambda: run(root, [MODALBATCH, "local", "--", *modal]),
            "modalbatch apply, 10 records": lambda: apply(root, spec),
            "modalbatch apply, nothing to do": lambda: run(root, [MODALBATCH, "apply", str(spec), "--engine", "local"]),
        }
        for command in commands.values():
            command()  # bytecode, image environments
        timings: dict[str, list[Timing]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                timings[name].append(command())
    head()
    for name, runs in timings.items():
        show(f"{name}, wall", [item.wall_s for item in runs])
        if "local" not in name and "apply" not in name:  # nobody waits for containers, so their time is not known
            show(f"{name}, cpu", [item.cpu_s for item in runs])
    cpu_s = {name: spread([item.cpu_s for item in runs])["median"] for name, runs in timings.items()}
    base_s = cpu_s["import click, yaml, jsonschema"]
    gates = [
        gate("--help, cpu, in imports of click, yaml, jsonschema", cpu_s["modalbatch --help"] / base_s, 1.0),
        gate("validate, cpu, in the same", cpu_s["modalbatch validate"] / base_s, 1.5),
    ]
    numbers = {name: [[item.wall_s, item.cpu_s] for item in runs] for name, runs in timings.items()}
    save(args.json, {"timings": numbers, "gates": gates})
    return 0 if all(item["ok"] for item in gates) else 1


if __name__ == "__main__":
    sys.exit(main())
