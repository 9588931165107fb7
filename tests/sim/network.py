"""Stores of the simulation, and the network between them and their clients.

A request may be lost, its reply may be lost, it may take effect long after its client gave up, or twice. Everything
that reaches a store is shown to the world, which checks it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_store import PAGE, Memory, MemoryStore, Stored
from modalbatch.errors import StateError, UnavailableError
from modalbatch.names import DEAD, PARTS, RECEIPTS
from modalbatch.stores import Entry

if TYPE_CHECKING:
    from sim.actors import Actor
    from sim.world import World

#: Seconds after which a request takes effect whose client does not wait any more. The protocol asks for less than the
#: timeout of an attempt: a receipt may not arrive when its parts are swept.
MOST_DELAY_S = 20
#: Written by many at the same time; half-written files of drivers are left out: the files are small, and renamed.
_OF_WORKERS = (PARTS, DEAD, RECEIPTS)
_md5 = lru_cache(4096)(lambda data: hashlib.md5(data).hexdigest())


class SimMemory(Memory):
    """The objects of a store under its own clock."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.objects: dict[str, Stored] = {}
        self.names: list[str] = []

    @property
    def clock_s(self) -> float:
        return self.world.store_clock_s()

    @clock_s.setter
    def clock_s(self, value: float) -> None:
        pass  # the world's

    def put(self, name: str, data: bytes) -> None:
        self.keep(name, Stored(data, self.clock_s))

    def keep(self, name: str, stored: Stored | None) -> None:
        """As it is elsewhere; None: gone."""
        if stored is None:
            self.remove(name)
            return
        if name not in self.objects:
            insort(self.names, name)
        self.objects[name] = stored

    def remove(self, name: str) -> bool:
        if self.objects.pop(name, None) is None:
            return False
        del self.names[bisect_left(self.names, name)]
        return True

    def page(self, prefix: str, last: str) -> list[str]:
        """The next names of a listing, which is no snapshot."""
        start = bisect_right(self.names, last) if last else bisect_left(self.names, prefix)
        return [name for name in self.names[start : start + PAGE] if name.startswith(prefix)]


class SimStore(MemoryStore):
    """A process's client of a store."""

    def __init__(self, actor: Actor, memory: SimMemory, spool_dir: Path) -> None:
        super().__init__(memory, spool_dir)
        self.actor, self.world = actor, actor.world

    def before(self, verb: str, name: str) -> None:
        """Of everything that only reads."""
        self.actor.pause()
        if self.world.strikes(self.actor):
            self.world.tell(f"{self.actor.name}: no answer to {verb} `{name}`")
            raise UnavailableError(f"cannot {verb} `{name}`")

    def list(self, prefix: str = "", *, descend: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        last = ""
        while True:
            self.before("list", prefix)
            names = self.memory.page(prefix, last)
            for name in names:
                yield self._entry(name)
            if len(names) < PAGE:
                return
            last = names[-1]

    def _entry(self, name: str) -> Entry:
        data, modified_s = self.memory.objects[name]
        return Entry(name, len(data), modified_s, _md5(data), "")

    def create(self, name: str, data: bytes) -> bool:
        return bool(self._write("create", name, lambda: self._create(name, data)))

    def _create(self, name: str, data: bytes) -> bool:
        stored = self.memory.objects.get(name)
        if stored is not None:
            return stored.data == data
        self._put("create", name, data)
        return True

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        data = path.read_bytes()
        assert hashlib.sha256(data).hexdigest() == sha256
        self._write("put", name, lambda: self._put("put", name, data))
        path.unlink()

    def replace(self, name: str, data: bytes) -> None:
        self._write("replace", name, lambda: self._put("replace", name, data))

    def delete(self, names: Iterable[str]) -> None:
        for name in list(names):
            self._write("delete", name, lambda name=name: self._delete(name))

    def _put(self, verb: str, name: str, data: bytes) -> None:
        before = self.memory.objects.get(name)
        self.world.check_write(verb, name, data, before)
        self.memory.put(name, data)
        self.world.changed(verb, name, data, self.actor)

    def _delete(self, name: str) -> None:
        self.world.check_delete(name, self.actor)
        self.memory.remove(name)

    def _write(self, verb: str, name: str, effect: Callable[[], Any]) -> Any:
        self.actor.pause()
        world = self.world
        fault = world.fault(self.actor)
        world.tell(f"{self.actor.name}: {verb} `{name}`{f', {fault}' if fault else ''}")
        result = effect() if fault in ("", "no reply", "twice") else None
        if fault in ("late", "twice"):
            world.send(world.rng.uniform(0.1, MOST_DELAY_S), f"{verb} `{name}` of {self.actor.name}", effect)
        if fault in ("lost", "no reply", "late"):
            raise UnavailableError(f"no reply to {verb} `{name}`")
        return result


class Volume:
    """A Modal Volume: what is committed, and who decided what (a `modal.Dict`)."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.committed = SimMemory(world)
        self.entries: dict[str, str] = {}

    def publish(self, changes: dict[str, Stored | None]) -> None:
        """Last writer wins, file by file."""
        for name, stored in changes.items():
            self.world.check_commit(name, stored, self.committed.objects.get(name))
            self.committed.keep(name, stored)

    def arbiter(self, actor: Actor) -> Callable[[str, str], str]:
        """A container's way to the `modal.Dict`."""

        def arbitrate(key: str, value: str) -> str:
            self._ask(actor, key, lambda: self._decide(key, value))
            return str(self._ask(actor, key, lambda: self.entries.get(key)))

        return arbitrate

    def _decide(self, key: str, value: str) -> None:
        if self.entries.setdefault(key, value) == value:
            self.world.decided(int(key.rpartition("-")[2]), value)

    def _ask(self, actor: Actor, key: str, effect: Callable[[], Any]) -> Any:
        actor.pause()
        fault = self.world.fault(actor)
        self.world.tell(f"{actor.name}: asks the arbiter for {key.rpartition('/')[2]}{f', {fault}' if fault else ''}")
        answer = effect() if fault in ("", "no reply", "twice") else None
        if fault not in ("", "twice"):
            raise UnavailableError("the arbiter does not answer")
        return answer


class VolumeStore(SimStore):
    """The folder where one container mounts a Volume: others' files are seen after `refresh`, ours after `commit`."""

    uri = "volume://sim/"
    has_conditional_create = False

    def __init__(self, actor: Actor, volume: Volume, spool_dir: Path) -> None:
        super().__init__(actor, SimMemory(actor.world), spool_dir)
        self.volume = volume
        self.changes: dict[str, Stored | None] = {}
        self._see()

    def commit(self) -> None:
        self._ask("commit")
        self.volume.publish(self.changes)
        self.changes.clear()

    def refresh(self) -> None:
        self._ask("refresh")
        self._see()

    def commit_some(self) -> None:
        """As in the background: some files, some of them torn where a worker wrote them."""
        rng = self.world.rng
        some = {name: stored for name, stored in self.changes.items() if rng.random() < 0.5}
        for name, stored in some.items():
            if stored and name.startswith(_OF_WORKERS) and rng.random() < 0.5:
                some[name] = Stored(stored.data[: rng.randrange(len(stored.data))], stored.modified_s)
            elif rng.random() < 0.8:
                del self.changes[name]
        self.world.tell(f"in the background of {self.actor.name}: {sorted(some)}")
        self.volume.publish(some)

    def _ask(self, verb: str) -> None:
        self.actor.pause()
        if self.world.strikes(self.actor):
            raise UnavailableError(f"cannot {verb} the volume")
        self.world.tell(f"{self.actor.name}: {verb}")

    def _see(self) -> None:
        """The last commits of all, and our own files over them."""
        self.memory.objects = dict(self.volume.committed.objects)
        self.memory.names = list(self.volume.committed.names)
        for name, stored in self.changes.items():
            self.memory.keep(name, stored)

    def _write(self, verb: str, name: str, effect: Callable[[], Any]) -> Any:
        """To the container's own disk: no network."""
        self.actor.pause()
        self.world.tell(f"{self.actor.name}: {verb} `{name}`")
        result = effect()
        self.changes[name] = self.memory.objects.get(name)
        return result

    def before(self, verb: str, name: str) -> None:
        self.actor.pause()

    def _put(self, verb: str, name: str, data: bytes) -> None:
        if verb == "put" and name in self.memory.objects:
            raise StateError(f"`{self.uri}{name}` exists and is not ours; nothing was overwritten")
        super()._put(verb, name, data)
