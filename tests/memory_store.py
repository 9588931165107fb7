"""A store in memory that keeps the contract of `stores.Store`; others may run at each of its operations."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from modalbatch.errors import NotFoundError, UnavailableError
from modalbatch.names import part_name
from modalbatch.records import Counts, Part, Receipt, Unit
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores import Entry

#: Names in one page of a listing: a listing is no snapshot.
PAGE = 3


class Stored(NamedTuple):
    data: bytes
    modified_s: float


class Memory:
    """The objects themselves, and the clock of the store."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.clock_s = 1_000_000.0

    def put(self, name: str, data: bytes) -> None:
        self.objects[name] = Stored(data, self.clock_s)


class MemoryStore:
    """One client of a `Memory`."""

    uri = "memory://sink/"
    has_conditional_create = True

    def __init__(self, memory: Memory, spool_dir: Path) -> None:
        self.memory = memory
        self._spool_dir = spool_dir

    # -- what a test may override

    def before(self, verb: str, name: str) -> None:
        """Called before each operation; may switch away or raise."""

    def is_lost(self, verb: str, name: str) -> bool:
        """Whether the reply of an operation that was carried out never arrives."""
        return False

    def changed(self, verb: str, name: str) -> None:
        """Called after each change."""

    # -- the contract

    def list(self, prefix: str = "", *, descend: Callable[[str], bool] | None = None) -> Iterator[Entry]:
        last = ""
        while True:
            self.before("list", prefix)
            names = sorted(name for name in self.memory.objects if name.startswith(prefix) and name > last)[:PAGE]
            for name in names:
                yield self._entry(name)
            if len(names) < PAGE:
                return
            last = names[-1]

    def stat(self, name: str) -> Entry | None:
        self.before("stat", name)
        return self._entry(name) if name in self.memory.objects else None

    def _entry(self, name: str) -> Entry:
        data, modified_s = self.memory.objects[name]
        return Entry(name, len(data), modified_s, hashlib.md5(data).hexdigest(), "")

    def read(self, name: str) -> bytes:
        self.before("read", name)
        if name not in self.memory.objects:
            raise NotFoundError(f"`{name}` does not exist")
        return self.memory.objects[name].data

    def open(self, name: str, *, start: int = 0, end: int | None = None, pin: str = "") -> BinaryIO:
        return io.BytesIO(self.read(name)[start:end])

    def create(self, name: str, data: bytes) -> bool:
        self.before("create", name)
        if name in self.memory.objects:
            return self.memory.objects[name].data == data
        self.memory.put(name, data)
        self._done("create", name)
        return True

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        self.before("put", name)
        data = path.read_bytes()
        assert hashlib.sha256(data).hexdigest() == sha256
        assert name not in self.memory.objects, "a part's name was used twice"
        self.memory.put(name, data)
        path.unlink()
        self._done("put", name)

    def replace(self, name: str, data: bytes) -> None:
        self.before("replace", name)
        self.memory.put(name, data)
        self._done("replace", name)

    def delete(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.before("delete", name)
            if self.memory.objects.pop(name, None):
                self._done("delete", name)

    def _done(self, verb: str, name: str) -> None:
        self.changed(verb, name)
        if self.is_lost(verb, name):
            raise UnavailableError(f"no reply to {verb} `{name}`")

    def spool_dir(self) -> Path:
        return self._spool_dir

    def sweep_unfinished(self, older_than_s: float, is_ours: Callable[[str], bool]) -> int:
        return 0

    def commit(self) -> None:
        pass

    def refresh(self) -> None:
        pass

    def probe(self) -> None:
        pass


FP = "f" * 64


def put_part(sink: ObjectSink, uri: str, attempt: str = "a" * 32, age_s: float = 0.0) -> Receipt:
    """A part as an attempt leaves it; its receipt, not written."""
    unit = Unit(uri, "1", "", 0, 10, False)
    data = uri.encode()
    name = part_name(unit.id, attempt, ".jsonl")
    sink.store.memory.clock_s -= age_s
    sink.store.memory.put(name, data)
    sink.store.memory.clock_s += age_s
    return Receipt(
        split=unit.id,
        fingerprint=FP,
        generation=1,
        attempt=attempt,
        run_id="r",
        units=(unit,),
        parts=(Part(name, len(data), hashlib.sha256(data).hexdigest(), 1),),
        counts=Counts(in_=1, out_of=1, out=1),
    )


def names(sink: ObjectSink) -> set[str]:
    return set(sink.store.memory.objects)
