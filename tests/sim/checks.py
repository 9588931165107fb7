"""What must hold in a simulation: the invariants of `guarantees.md` section 4, and where each is checked.

I1  `check_write`, `check_commit`: at every write.
I2  `check_manifest` (names, sizes, hashes and contents when a manifest becomes live), `check_end` (they stay).
I3  by names that are written once (I1); `check_manifest` has every unit in one receipt.
I4  `check_manifest`: no part is named twice.
I5  `check_manifest`: all that the writer's source has, nothing that is gone unless it is kept, no input twice.
I6  `check_receipt`: lines and counts of each unit; the manifest's counts are their sum.
I7  `check_receipt`: every line has the attempt of its receipt, unless it was carried over.
I8  `check_manifest`: numbers follow each other, and a number is decided once.
I9  `check_delete`: at every delete; foreign data at the end.
I10 drivers of the simulation have nothing but the sink; half of the ends lose or tear what is under `runs/`.
I11 `check_attempt` (the first quiet `apply` does nothing that is done, the second nothing at all), `World.quiet_end`.
I14 `check_exit` (a driver that was alone), `check_end`, with the real `verify` in every eighth schedule.
I12, I13: not here; `tests/unit/driver/test_memory.py`, and a store cannot leave its root.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from memory_store import Stored
from modalbatch.driver.verify import verify
from modalbatch.errors import StateError
from modalbatch.names import MANIFESTS, is_ours, parse_receipt_name
from modalbatch.records import ALL_LINES, Manifest, Receipt, Split, Unit, parse_receipt, total
from modalbatch.sinks.objects import ObjectSink
from sim.actors import Actor

if TYPE_CHECKING:
    from sim.world import World

FOREIGN = {"part-notes.txt": b"mine", "data.csv": b"a,b", "_modalbatch/receipts/readme.txt": b"?"}
REPLACEABLE = ("_SUCCESS", "/end.json", ".jsonl")


class Checks:
    """What was live, and what may never change."""

    def __init__(self, world: World) -> None:
        self.world = world
        #: Of the newest manifest.
        self.newest = 0
        self.live: dict[str, Receipt] = {}
        self.live_objects: set[str] = set()
        #: Names that some manifest has retired.
        self.retired: set[str] = set()
        self.last: Manifest | None = None
        #: Lines, by unit, that a quiet `apply` must not do again.
        self.done: dict[str, list[tuple[int, int]]] = {}
        self.is_all_done = False

    def forget_newest(self) -> None:
        """The newest manifest, which nobody has relied on, is live no more."""
        vars(self).update(self.before)

    # -- at every step

    def check_write(self, verb: str, name: str, data: bytes, before: Stored | None) -> None:
        if before is not None and before.data != data and not name.endswith(REPLACEABLE):
            raise self.world.violation(f"I1: `{name}` is written again, to {verb} it")

    def check_commit(self, name: str, stored: Stored | None, before: Stored | None) -> None:
        """On a Volume; what was torn may become whole."""
        is_unique = is_ours(name) or parse_receipt_name(name) or name.startswith(MANIFESTS)
        if not is_unique or stored is None or before is None:
            return
        if not stored.data.startswith(before.data) and not before.data.startswith(stored.data):
            raise self.world.violation(f"I1: `{name}` is written again")

    def check_delete(self, name: str, actor: Actor) -> None:
        if name in self.live_objects and name not in self.world.vandalised:
            raise self.world.violation(f"I9: {actor.name} deletes `{name}`, which manifest {self.newest} lists")
        if name in FOREIGN:
            raise self.world.violation(f"I9: `{name}` is not ours")
        for other in self.world.actors:
            if other is actor or other.is_dead or not other.attempt or f"-{other.attempt[:8]}." not in name:
                continue
            # On a Volume its receipt may be seen, and retired, before it knows that it has committed.
            if not any(other.attempt in receipt for receipt in self.retired):
                raise self.world.violation(f"I9: {actor.name} deletes `{name}` of a running attempt")

    def check_attempt(self, split: Split) -> None:
        if self.is_all_done:
            raise self.world.violation("I11: the second of two quiet applies runs something again")
        again = [
            unit.uri
            for unit in split.units
            if any(low < unit.high and unit.low < high for low, high in self.done.get(unit.stem, ()))
        ]
        if again and not split.carry:
            raise self.world.violation(f"I11: {again} ran again, with a receipt that counts")

    def check_exit(self, driver: Actor) -> None:
        success = self._sink().success()
        if success and success["manifest"] != self.newest and self.world.is_orderly and not self.world.drivers()[1:]:
            raise self.world.violation(f"I14: _SUCCESS is left of manifest {success['manifest']} beside {self.newest}")
        if driver.outcome is None or driver.outcome["exit_code"] or not driver.is_alone or self.world.in_flight:
            return
        if success is None or success["manifest"] != self.newest:
            raise self.world.violation(f"I14: exit code 0, and _SUCCESS says {success} of manifest {self.newest}")

    # -- when a manifest becomes live

    def check_manifest(self, data: bytes, writer: Actor) -> None:
        manifest = Manifest.from_bytes(data)
        if manifest.number != self.newest + 1:
            raise self.world.violation(f"I8: manifest {manifest.number} after {self.newest}")
        try:
            live = dict(self._sink().live(manifest))
        except StateError as error:
            raise self.world.violation(f"I2: {error.message}") from error
        named: list[str] = []
        covered: dict[str, str] = {}
        pieces: dict[str, list[tuple[int, int]]] = {}
        for name, receipt in live.items():
            if name in self.retired:
                raise self.world.violation(f"`{name}` is live again after it was retired")
            self._check_receipt(name, receipt)
            named += [part.name for part in receipt.parts + receipt.dead]
            for unit in receipt.units:
                if covered.setdefault(unit.uri, unit.stem) != unit.stem:
                    raise self.world.violation(f"I5: manifest {manifest.number} has input `{unit.uri}` twice")
                pieces.setdefault(unit.uri, []).append((unit.low, unit.high))
        for uri, ranges in pieces.items():
            ends = [0, *(high for _, high in sorted(ranges))]
            if [low for low, _ in sorted(ranges)] != ends[:-1] or ends[-1] != ALL_LINES:
                raise self.world.violation(f"I5: manifest {manifest.number} has of `{uri}` only {sorted(ranges)}")
        if len(named) != len(set(named)):
            raise self.world.violation("I4: a part is in two receipts")
        if manifest.counts != total(receipt.counts for receipt in live.values()):
            raise self.world.violation(f"I6: counts of manifest {manifest.number} are not those of its receipts")
        self._check_cover(manifest, covered, writer)
        self.before = dict(vars(self))
        self.newest, self.live, self.last = manifest.number, live, manifest
        self.live_objects = {*live, *named}
        self.retired = self.retired | set(manifest.retired)

    def _check_receipt(self, name: str, receipt: Receipt) -> None:
        stored = self.world.truth.objects.get(name)
        if stored is None and name in self.world.vandalised:
            return
        if stored is None or _receipt_in(stored.data) != receipt:
            raise self.world.violation(f"I2: `{name}` is live and gone or altered")
        if receipt.counts != total(receipt.unit_counts) or not receipt.counts.balances():
            raise self.world.violation(f"I6: `{name}` does not balance")
        for part in receipt.parts + receipt.dead:
            self._check_part(receipt, part.name, part.sha256, part in receipt.dead)
        n_lines = sum(part.records for part in receipt.parts), sum(part.records for part in receipt.dead)
        if n_lines != (receipt.counts.out, receipt.counts.dead):
            raise self.world.violation(f"I6: `{name}` counts other records than its parts")

    def _check_part(self, receipt: Receipt, name: str, sha256: str, is_dead: bool) -> None:
        stored = self.world.truth.objects.get(name)
        if stored is None and name in self.world.vandalised:
            return
        if stored is None or hashlib.sha256(stored.data).hexdigest() != sha256:
            raise self.world.violation(f"I2: `{name}` is live and gone or altered")
        lines = _lines_in(stored.data)
        n_lines = [counts.dead if is_dead else counts.out for counts in receipt.unit_counts]
        if [unit for unit, _ in lines] != [
            unit.id for unit, n in zip(receipt.units, n_lines, strict=True) for _ in range(n)
        ]:
            raise self.world.violation(f"I6: `{name}` is not what its receipt says of each input")
        attempts = {attempt for _, attempt in lines}
        if len(attempts) > 1 or (receipt.attempt not in self.world.carried and attempts - {receipt.attempt}):
            raise self.world.violation(f"I7: `{name}` is not of its receipt's attempt")

    def _check_cover(self, manifest: Manifest, covered: dict[str, str], writer: Actor) -> None:
        number, on_removed = manifest.number, self.world.on_removed
        wanted = {unit.uri: unit.id for unit in writer.wanted.values()}
        for uri, unit_id in wanted.items():
            if covered.get(uri) != unit_id:
                raise self.world.violation(f"I5: manifest {number} lacks `{uri}`")
        before = {unit.uri: unit.stem for receipt in self.live.values() for unit in receipt.units}
        for uri, unit_id in before.items():
            is_kept = on_removed == "keep" and uri not in wanted and not self.world.vandalised
            if is_kept and covered.get(uri) != unit_id:
                raise self.world.violation(f"I5: manifest {number} gives up `{uri}`, which is gone")
        for uri in covered.keys() - wanted.keys():
            if on_removed == "drop":
                raise self.world.violation(f"I5: manifest {number} keeps `{uri}`, which is gone")
            if before.get(uri) != covered[uri]:
                raise self.world.violation(f"I5: manifest {number} lists `{uri}`, which is gone and was never live")

    # -- at the end

    def note_done(self, fingerprint: str, wanted: dict[str, Any]) -> None:
        """What has a receipt that counts, for a driver that starts now."""
        if self.world.is_undecided():
            return  # a manifest may become live with the next look at it
        counting: dict[str, Receipt] = {}
        for name, stored in self.world.truth.objects.items():
            found = parse_receipt_name(name)
            if found and found.fp8 == fingerprint[:8] and self._counts(name, stored.data):
                receipt = parse_receipt(stored.data)
                before = counting.get(receipt.split)
                if before is None or before.generation < receipt.generation:
                    counting[receipt.split] = receipt
        whole = [item for item in counting.values() if all(unit.stem in wanted for unit in item.units)]
        by_stem: dict[str, list[tuple[Unit, Receipt]]] = {}
        for unit, item in ((unit, item) for item in whole for unit in item.units):
            by_stem.setdefault(unit.stem, []).append((unit, item))

        def is_alone(unit: Unit, item: Receipt) -> bool:
            others = (other for other, owner in by_stem[unit.stem] if owner is not item)
            return not any(unit.low < other.high and other.low < unit.high for other in others)

        # One of two packs that share a line is done again.
        alone = [item for item in whole if all(is_alone(unit, item) for unit in item.units)]
        self.done = {}
        for unit in (unit for item in alone for unit in item.units):
            self.done.setdefault(unit.stem, []).append((unit.low, unit.high))

    def _counts(self, name: str, data: bytes) -> bool:
        try:
            receipt = parse_receipt(data)
        except StateError:
            return False
        objects = self.world.truth.objects
        return not self._may_be_void(name, receipt) and all(
            part.name in objects and len(objects[part.name].data) == part.bytes for part in receipt.parts + receipt.dead
        )

    def _may_be_void(self, name: str, receipt: Receipt) -> bool:
        """Retired, or as old as something that the manifests have forgotten: that costs work, never a result."""
        forgotten = self.last.extra.get("void", {}) if self.last else {}
        is_old = receipt.generation <= forgotten.get(receipt.fingerprint[:8], 0)
        return name in self.retired or (is_old and name not in self.live)

    def check_end(self) -> None:
        objects = self.world.truth.objects
        for name in sorted(objects):
            is_object = is_ours(name) or bool(parse_receipt_name(name))
            if is_object and name not in self.live_objects:
                raise self.world.violation(f"`{name}` is left over after two quiet applies")
        for name in self.live_objects - self.world.vandalised:
            if name not in objects:
                raise self.world.violation(f"I2: `{name}` is gone at the end")
        if not all(objects[name].data == data for name, data in FOREIGN.items()):
            raise self.world.violation("I9: foreign data changed")
        success = self._sink().success()
        if success is None or success["manifest"] != self.newest:
            raise self.world.violation(f"I14: _SUCCESS says {success}, the newest manifest is {self.newest}")
        if self.world.is_verified:
            proof = verify(self._sink())
            if not proof.is_whole or not proof.is_complete:
                raise self.world.violation(f"I14: verify says {proof.problems}")

    def _sink(self) -> ObjectSink:
        return self.world.look()


@lru_cache(4096)
def _receipt_in(data: bytes) -> Receipt:
    return Receipt.from_json(json.loads(data))


@lru_cache(4096)
def _lines_in(data: bytes) -> list[tuple[str, str]]:
    """Unit and attempt of each line of a part."""
    return [(line["unit"], line["attempt"]) for line in map(json.loads, data.splitlines())]
