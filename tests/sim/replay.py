"""`python tests/sim/replay.py KIND SEED [MUTANT]`: one schedule again, with everything that happened in it.

Instead of a kind: PLACE/STORY/TROUBLE of `scenario.py`; the seed is the step then.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "runner")]

from sim.actors import Violation  # noqa: E402
from sim.mutants import MUTANTS  # noqa: E402
from sim.scenario import TROUBLES, Disturbed  # noqa: E402
from sim.schedule import run_schedule  # noqa: E402


def main(kind: str, seed: str, mutant: str = "") -> int:
    trace: list[str] = []
    with MUTANTS[mutant].broken() if mutant else nullcontext(), tempfile.TemporaryDirectory() as folder:
        try:
            if "/" in kind:
                place, story, trouble = kind.split("/")
                trouble = next(name for name in TROUBLES if name.replace(" ", "-") == trouble)
                Disturbed(place, story, trouble, int(seed), Path(folder), trace).run()
            else:
                run_schedule(kind, int(seed), Path(folder), trace)
            found = ""
        except Violation as violation:
            found = str(violation)
    print("\n".join(trace))
    print(found or "no invariant was broken")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
