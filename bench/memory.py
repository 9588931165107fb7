"""Memory: the largest process of a run over a million records, sampled from `/proc` while it runs."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from measure import MODALBATCH, apply, environ, gate, save, workplace, write_job

SAMPLE_S = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """A process and all below it; containers are below their fork server, which is below the engine."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue  # it has ended
    return found


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def command_of(pid: int) -> str:
    """The process in one word or two."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return "?"
    return " ".join(Path(word).name for word in words[:5] if not word.startswith("{"))[:60]


def main() -> int:
    """Measure, print, judge; 1 when the limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--line-bytes", type=int, default=200)
    parser.add_argument("--containers", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to FILE")
    args = parser.parse_args()
    peaks: dict[int, tuple[int, str]] = {}
    total_bytes = 0
    with workplace() as root:
        spec = write_job(root / "job", records=args.records, line_bytes=args.line_bytes, containers=args.containers)
        apply(root, write_job(root / "small", records=10, line_bytes=args.line_bytes, containers=args.containers))
        command = [MODALBATCH, "apply", str(spec), "--engine", "local"]
        with (root / "said").open("w") as said:
            process = subprocess.Popen(command, cwd=root, env=environ(root), stdout=said, stderr=said)
            while process.poll() is None:
                sizes = {pid: rss_bytes(pid) for pid in descendants(process.pid)}
                total_bytes = max(total_bytes, sum(sizes.values()))
                for pid, size_bytes in sizes.items():
                    if size_bytes > peaks.get(pid, (0, ""))[0]:
                        peaks[pid] = size_bytes, command_of(pid)
                time.sleep(SAMPLE_S)
        if process.returncode:
            sys.exit((root / "said").read_text())
    print(
        f"{args.records} records of {args.line_bytes} bytes, {args.containers} containers; largest processes, MB RSS:"
    )
    for size_bytes, name in sorted(peaks.values(), reverse=True)[:8]:
        print(f"{size_bytes / 1e6:>9.1f}  {name}")
    print(f"{total_bytes / 1e6:>9.1f}  all together, shared pages counted more than once")
    gates = [gate("largest process, MB", max(peaks.values())[0] / 1e6, 250)]
    largest = [[size_bytes, name] for size_bytes, name in sorted(peaks.values(), reverse=True)]
    save(args.json, {"records": args.records, "processes": largest, "total_bytes": total_bytes, "gates": gates})
    return 0 if all(item["ok"] for item in gates) else 1


if __name__ == "__main__":
    sys.exit(main())
