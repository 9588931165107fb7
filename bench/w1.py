"""W1: a million small records with a tiny handler, against two plain loops over half of the file each.

The plain loops are the two-core ideal: no framework, nothing kept, nothing proved. A B A B in one run, so that a noisy
machine disturbs both sides.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from measure import apply, gate, head, save, show, spread, workplace, write_job

LINE_BYTES = 192
SMALL = 10
LOOP = """\
import sys
sys.path.insert(0, sys.argv[1])
import orjson
from handlers import work

source, target, start, end = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
with open(source, "rb", buffering=1 << 20) as lines, open(target, "wb", buffering=1 << 20) as out:
    lines.seek(start)
    left = end - start
    for line in lines:
        out.write(orjson.dumps(work(orjson.loads(line))) + b"\\n")
        left -= len(line)
        if left <= 0:
            break
"""


def plain_loops(folder: Path, n_loops: int) -> float:
    """`n_loops` processes, each over its share of the file; lines have one length, so shares end at lines."""
    source = folder / "data" / "records.jsonl"
    lines = source.stat().st_size // LINE_BYTES
    cuts = [lines * i // n_loops * LINE_BYTES for i in range(n_loops + 1)]
    os.sync()
    start = time.perf_counter()
    loops = []
    for i in range(n_loops):
        target = folder / f"plain-{i}.jsonl"
        words = [str(folder), str(source), str(target), str(cuts[i]), str(cuts[i + 1])]
        loops.append(subprocess.Popen([sys.executable, "-c", LOOP, *words]))
    codes = [loop.wait() for loop in loops]
    if any(codes):
        sys.exit("a plain loop failed")
    return time.perf_counter() - start


def compare(folder: Path, n_loops: int) -> None:
    """Both sides have written the same lines."""
    ours = sorted(line for part in (folder / "out").glob("part-*") for line in part.open("rb"))
    theirs = sorted(line for i in range(n_loops) for line in (folder / f"plain-{i}.jsonl").open("rb"))
    if ours != theirs:
        sys.exit("the outputs differ")


def main() -> int:
    """Measure, print, judge; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--containers", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to FILE")
    args = parser.parse_args()
    with workplace() as root:
        large = write_job(root / "large", records=args.records, line_bytes=LINE_BYTES, containers=args.containers)
        small = write_job(root / "small", records=SMALL, line_bytes=LINE_BYTES, containers=args.containers)
        apply(root, small)  # builds the image's environment
        ours, few, plain = [], [], []
        for _ in range(args.rounds):
            ours.append(apply(root, large).wall_s)
            plain.append(plain_loops(large.parent, args.containers))
            few.append(apply(root, small).wall_s)
        compare(large.parent, args.containers)
    fixed_s = spread(few)["median"]
    net = [wall_s - fixed_s for wall_s in ours]
    ratios = [a / b for a, b in zip(net, plain, strict=True)]
    head()
    show(f"apply, {args.records} records, wall", ours)
    show(f"apply, {SMALL} records, wall", few)
    show(f"{args.containers} plain loops, wall", plain)
    show("(apply - small apply) / plain loops", ratios, "")
    gates = [
        gate("ratio of medians", spread(net)["median"] / spread(plain)["median"], 1.25, 1.10),
        gate(f"{SMALL}-record run, s", spread(few)["median"], 2.5),
    ]
    walls = {"apply": ours, "small_apply": few, "plain": plain}
    save(args.json, {"records": args.records, "containers": args.containers, "wall_s": walls, "gates": gates})
    return 0 if all(item["ok"] for item in gates) else 1


if __name__ == "__main__":
    sys.exit(main())
