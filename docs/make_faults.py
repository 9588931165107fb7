"""The fault matrix of docs/faults.md: each cell names the tests that show it, found by the tests' own docstrings.

A test shows a row by beginning its docstring with it: `F33 S:`, `F01-F05 L, F08 LS:`; the letters are the places below,
and without a letter the place is that of the test's file. With `--check` it compares only.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

from generated import write_or_check

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PAGE = ROOT / "docs" / "faults.md"

PLACES = {"L": "local disk", "S": "S3", "V": "Modal Volume", "D": "simulation"}
#: Where tests without a letter run, by the beginning of their path.
WHERE = {
    "sim/": "D",
    "conformance/stores/": "S",
    "fault/test_storage_trouble.py": "S",
    "fault/test_command_trouble.py": "S",
    "unit/stores/": "S",
    "fault/test_disk_trouble.py": "L",
    "unit/": "L",
    "property/": "L",
}

HEAD = """\
# What was broken, and what held

Each row is a fault; each cell names the test that causes it, on that kind of place, and checks what must hold
afterwards: the run ends as said, `apply` again finishes, and the invariants of [guarantees.md](guarantees.md) hold.
*Local disk* and *S3* are real processes on real files and a real server on this machine; *Modal Volume* is the local
engine's, or the simulation's where it says so; *simulation* is the real driver, worker, store and sweep code on a
virtual clock, network and disk ([tests/sim](../tests/sim)). What no test shows says so, with the reason.

This page is made from the tests by `make format`; `make check` compares it.
"""

#: Row, places where it must be shown, the fault, what must hold.
ROWS = """\
F01 LSD | the driver is killed before it has written anything | nothing is visible; the next `apply` starts clean
F02 LSD | killed after the run was noted, before the first split | the next `apply` does everything
F03 LSD | killed while splits are out | the next `apply` does only what has no receipt
F04 LSDV | killed between a worker's parts and its receipt | orphans only; the split is done again; the sweep takes them
F05 LSD | killed after a receipt, before the ledger knows | the split is not done again
F06 L | killed in the middle of a ledger line | the story lacks its end; the manifest is the same
F07 LSDV | killed between the last receipt and the manifest | the next `apply` publishes and runs nothing
F08 LSD | killed after the manifest, before the sweep | the next `apply` sweeps; what is live stays the same
F09 LSD | killed in the middle of the sweep | the next `apply` completes it; nothing live is lost
F10 LSDV | killed after `_SUCCESS` | `nothing to do`, exit code 0, nothing is written
F11 L | killed at every single thing that a run does to its sink | each time the next `apply` finishes
F12 LS | SIGTERM, once | nothing more is handed out, what runs may finish, the last line says how to continue
F13 LS | Ctrl-C, twice | it ends at once with code 130, without a traceback
F14 LSDV | the driver sleeps, another finishes, the first wakes | one manifest; the first leaves
F15 LSDV | two `apply` at once | both end; one manifest each number
F16 SVD | the machine is lost with ledger and state | `apply` from another machine goes on from the sink alone
F17 D | the client is gone and its app stops | what was out is lost; the next `apply` does it
F18 D | attempts outlive their driver; the next run does the same splits | one receipt each
F19 LD | a worker is killed in the middle of a record | the split is done again by another attempt
F20 LD | a worker is killed after its receipt, before its answer | the receipt counts
F21 L | a handler runs out of memory | `oom`; the record that does it alone is a dead letter
F22 L | a handler hangs | the slot is ended at its timeout; the record that does it is a dead letter; no process is left
F23 L | a handler ignores SIGTERM | SIGKILL
F24 L | a slot ends with code 0 and no answer | a failure, not a success
F25 L | a process aborts after the receipt | a success
F26 L | a process hangs at its exit, after the receipt | a success; it is ended
F27 LS | the handler raises on one record | a dead letter; every other record once
F28 LS | the handler raises on every record | `max_failed` stops the run, code 5
F29 LSDV | one input is delivered twice at the same time | one wins
F30 D | delivered again after the receipt | answered from the receipt, nothing is computed
F31 DV | an attempt wakes after `_SUCCESS` | it loses; what is live stays the same
F32 L | a result that cannot be written or pickled | it is the record's failure; only text crosses the wire
F33 S | the store answers 500 three times, then well | again with back-off, success
F34 S | 503 SlowDown for a while | again with back-off, success
F35 S | 500 for ever | code 75; `apply` later succeeds
F36 S | the connection is reset after a part was sent | sent again, or found to be there
F37 S | a receipt was stored and the reply is lost | read back: it is ours
F38 S | 409 for a receipt | again: nothing is there yet
F39 S | the store gets a truncated body | it refuses by the checksum; sent again
F40 S | a read breaks off | it goes on from where it was; no part of a record is taken for one
F41 S | a store that sends a byte a second | a time limit, then again
F42 S | a page of a listing, then 500 | the page is asked for again; nothing is left out
F43 S | no access to receipts only | refused before anything runs
F44 S | credentials expire | code 75, one line; `apply` with new ones goes on
F45 S | a store that ignores the condition | refused by the probe, unless the spec says `delivery: at_least_once`
F46 S | the bucket is deleted | code 75, one line
F47 S | an input is deleted before it is read | its split fails with that reason; nothing is skipped in silence
F48 S | an input changes after it was listed | its split fails with that reason; `apply` plans again
F49 S | a part is deleted before the manifest | no manifest lists it; the split is done again
F50 L | the disk is full | code 75, nothing half-written; `apply` goes on when there is room
F51 L | a write is cut short by a limit of the system | noticed, not committed
F52 L | the disk is full only when a file is closed | noticed
F53 L | fsync fails | the attempt fails; fsync is never simply tried again
F54 LS | no room for the ledger, the sink is fine | the run goes on
F55 L | a byte of the ledger is flipped | nothing is decided from it: the same manifest
F56 L | the ledger is gone, empty, a folder, read-only | the same manifest, or one clear line
F57 D | clocks jump back an hour, or ahead ten years | nothing misfires
F58 V | a background commit publishes half of a file | it does not count until its hash matches
F59 V | a container is killed before it commits | the split is done again
F60 V | a volume is refreshed while a file is open | the driver waits for its own; else one clear line
F61 VD | two drivers publish on a volume | the arbiter decides: one manifest
F62 V | the arbiter has forgotten | the record in the sink decides
F63 V | more files than a volume takes | an error with the numbers before anything runs
F64 S | HTTP sources: redirects, 429, 500, stalls |
F65 S | HTTP sources without ETag or ranges |
F66 L | a gzip file is cut off | what is whole before the break is processed; the rest is one dead letter, `unknown`
F67 L | `/submit` twice with one key |
F68 D | `/result` after seven days |
F69 SD | 10,000 splits, listings in pages of 1,000, killed at 60 % | the next run does exactly the rest
F70 LSDV | `verify` after each of these | whole, or the exact name
"""

#: Cells without a test, and why.
UNPROVEN = {
    "F12 S": "what a signal does is decided before any store is asked: shown on a disk",
    "F13 S": "as F12",
    "F14 S": "a driver that sleeps asks no store: shown on a disk",
    "F28 S": "which records fail has nothing to do with the store: shown on a disk",
    "F52 L": "nothing is written through a buffer: each write says by itself whether there was room (F50, F51)",
    "F54 S": "the ledger lies in the sink: it has room where the sink has",
    "F63 V": "the limits of a Volume are not checked before a run yet; a full one fails as a full disk does",
    "F69 S": "the real driver on a store in SQLite that lists as S3 does",
    "F64 S": "there is no HTTP source yet",
    "F65 S": "there is no HTTP source yet",
    "F67 L": "jobs are not served as queues yet",
    "F68 D": "jobs are not served as queues yet",
}

_TAG = re.compile(r"F(\d\d)(?:-F(\d\d))?(?: ([LSVD]+)\b)?")
_TAGS = re.compile(rf"{_TAG.pattern}(?:,?\s{_TAG.pattern})*(?=:|$)", re.MULTILINE)


def shown() -> dict[str, list[str]]:
    """Row and place to the links of the tests that show it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted([*TESTS.rglob("test_*.py"), *TESTS.rglob("*_suite.py")]):
        name = path.relative_to(TESTS).as_posix()
        for test in ast.walk(ast.parse(path.read_text())):
            if not isinstance(test, ast.FunctionDef) or not test.name.startswith("test_"):
                continue
            tags = _TAGS.match(ast.get_docstring(test) or "")
            for first, last, letters in _TAG.findall(tags[0]) if tags else ():
                places = letters or next((place for start, place in WHERE.items() if name.startswith(start)), "")
                if not places:
                    raise SystemExit(f"{name}: {test.name}: F{first} needs the letter of a place: {', '.join(PLACES)}")
                for number in range(int(first), int(last or first) + 1):
                    for place in places:
                        sentence = test.name.removeprefix("test_").replace("_", " ")
                        found[f"F{number:02} {place}"].append(f"[{sentence}](../tests/{name})")
    return found


def page() -> str:
    """The page; every cell has a test or a reason.

    Raises:
        SystemExit: a cell has neither, or a test shows a row that is not there.
    """
    found, known, missing = shown(), set(), []
    lines = [
        HEAD,
        f"| | fault | what must hold | {' | '.join(PLACES.values())} |",
        f"|---|---|---|{'---|' * len(PLACES)}",
    ]
    for row in ROWS.splitlines():
        head, fault, must = (item.strip() for item in row.split("|"))
        number, places = head.split()
        cells = []
        for place in PLACES:
            cell = f"{number} {place}"
            known |= {cell} if place in places else set()
            if cell not in found and cell not in UNPROVEN and place in places:
                missing.append(cell)
            reason = f"unproven: {UNPROVEN.get(cell)}" if place in places else ""
            cells.append(" · ".join(found.get(cell, ())) or reason)
        lines.append(f"| {number} | {fault} | {must} | {' | '.join(cells)} |")
    extra = sorted(cell for cell in found if cell[:3] not in ROWS)
    both = sorted(set(UNPROVEN) & set(found))
    if missing or extra or both:
        said = {"neither a test nor a reason": missing, "no such row": extra, "a test, and said to be unproven": both}
        raise SystemExit("; ".join(f"{what}: {', '.join(cells)}" for what, cells in said.items() if cells))
    lines.append(f"\n{len(known & set(found))} of {len(known)} cells are shown by a test.")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Writes the page, or with `--check` says how it differs."""
    return write_or_check(PAGE, page())


if __name__ == "__main__":
    sys.exit(main())
