"""What crosses the wire and what stands in a sink: units, splits, receipts, manifests. Runs on: both.

Owns ids and JSON forms, and no name (`names`) or seal (`canonical`). Reads and writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from modalbatch.canonical import SINK_FORMAT, Json, check_format, decode, encode, parse_json, seal, unseal
from modalbatch.errors import StateError
from modalbatch.names import parse_receipt_name

#: Attempts of a split that began and never ended, and make the next one suspect that the split ends its containers.
SUSPECT_ENTRIES = 3
#: As the `high` of a unit: all its lines from `low` on, however many there are.
ALL_LINES = 1 << 62


class Input(NamedTuple):
    """One input object, as the listing saw it."""

    #: Logical URI: what the spec's author would write; never a machine path for a relative spec.
    uri: str
    size_bytes: int
    #: What the bytes are: ETag of an object, sha256 of a local file.
    identity: str
    #: What reading compares (see `stores.Entry.pin`).
    pin: str


class Unit(NamedTuple):
    """A part of one input that is processed as a whole: done-ness is per unit."""

    uri: str
    identity: str
    pin: str
    #: Byte range of the raw object; a line belongs to the unit in which its first byte lies.
    start: int
    end: int
    #: Whether the object must be read whole (compressed): then the range is the whole object.
    whole: bool
    #: Lines [low, high) of the range, blank ones counted; all of them unless this is a piece of a divided unit.
    low: int = 0
    high: int = ALL_LINES

    @property
    def id(self) -> str:
        """24 hex digits: hash of logical URI, identity, range and lines; never of the job."""
        lines = f"\0{self.low}-{self.high}" if self.is_piece else ""
        return digest(f"{self.uri}\0{self.identity}\0{self.start}-{self.end}{lines}")

    @property
    def stem(self) -> str:
        """The id of the whole unit, of which this may be a piece: the receipts of all its pieces stand for it."""
        return self.piece(0, ALL_LINES).id if self.is_piece else self.id

    @property
    def is_piece(self) -> bool:
        """Whether it is not all lines of its range."""
        return (self.low, self.high) != (0, ALL_LINES)

    def piece(self, low: int, high: int) -> Unit:
        """Lines [low, high) of the same range."""
        return self._replace(low=low, high=high)

    def to_json(self) -> list[Any]:
        """A list, without the lines of a whole unit."""
        return list(self if self.is_piece else self[:6])


def digest(text: str) -> str:
    """24 hex digits (96 bits) of sha256: ids of units and splits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def split_id(units: Iterable[Unit]) -> str:
    """The id of a split of these units."""
    ids = [unit.id for unit in units]
    return ids[0] if len(ids) == 1 else digest("\0".join(ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Unit of work on the wire: one unit, or a pack of small ones; below 8 KiB of JSON."""

    units: tuple[Unit, ...]
    #: Number of the manifest being built, or higher where a receipt of that number is void.
    generation: int
    fingerprint: str
    run_id: str
    #: Logical prefix → actual prefix, for URIs of sources and the sink.
    roots: Mapping[str, str]
    #: To be processed and thrown away, for how long it takes.
    is_sample: bool = False
    #: What earlier attempts found out about records that hang (see `runtime.supervise.Suspects`).
    suspects: Json = field(default_factory=dict)
    #: Name of a receipt: its records of these units are copied, no handler is called (see `runtime.carry`).
    carry: str = ""
    #: {"receipt": name, and what `sinks.letter.is_meant` asks}: the dead letters of this receipt are processed, and not
    #: the units (see `runtime.again`).
    retry: Json = field(default_factory=dict)
    #: Records that memory allows in the handler together, as other splits of the run have found out; 0: not known.
    most: int = 0

    @property
    def id(self) -> str:
        """The id of the only unit, or the hash of the units' ids."""
        return split_id(self.units)

    def suspected(self) -> Split:
        """The same, where it may be what ends its containers: one more attempt that does not end, and it is divided."""
        return replace(self, suspects=self.suspects | {"entries": SUSPECT_ENTRIES - 1})

    def to_text(self) -> str:
        """JSON for `.map()`."""
        return encode(
            {
                "units": [unit.to_json() for unit in self.units],
                "generation": self.generation,
                "fingerprint": self.fingerprint,
                "run_id": self.run_id,
                "roots": dict(self.roots),
                "is_sample": self.is_sample,
                "suspects": self.suspects,
                "carry": self.carry,
                "retry": self.retry,
                "most": self.most,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Split:
        """The split that `to_text` wrote."""
        data = decode(text)
        data["units"] = tuple(Unit(*unit) for unit in data["units"])
        return cls(**data)


class Part(NamedTuple):
    """One object of results or dead letters, named relative to the sink."""

    name: str
    bytes: int
    sha256: str
    #: Output records, or dead letters.
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of a split's records: `in_ = out_of + dead + filtered + dropped`."""

    in_: int = 0
    #: Input records that gave at least one output record, or an empty list of them.
    out_of: int = 0
    dead: int = 0
    filtered: int = 0
    dropped: int = 0
    #: Output records.
    out: int = 0
    #: Blank lines: not records.
    blank: int = 0

    def balances(self) -> bool:
        """Whether every input record is in exactly one place."""
        return self.in_ == self.out_of + self.dead + self.filtered + self.dropped

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    def __sub__(self, other: Counts) -> Counts:
        return Counts(**{name: getattr(self, name) - getattr(other, name) for name in self.__slots__})

    def to_json(self) -> Json:
        """With `in` for `in_`."""
        return {name.rstrip("_"): getattr(self, name) for name in self.__slots__}

    def to_brief(self) -> Json:
        """`to_json` without what is 0."""
        return {name: value for name, value in self.to_json().items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Counts:
        """What `to_json` wrote; unknown names of a later writer are left out."""
        known = {name: n for name, n in data.items() if name in cls.__slots__}
        return cls(in_=data.get("in", 0), **known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Write-once proof that a split is done; written after its parts."""

    split: str
    fingerprint: str
    generation: int
    #: 32 hex digits, minted by the worker at entry.
    attempt: str
    run_id: str
    units: tuple[Unit, ...]
    #: What each unit gave, in the order of `units`, in which the records of the parts lie, too. Empty: not known.
    unit_counts: tuple[Counts, ...] = ()
    parts: tuple[Part, ...] = ()
    #: Where the units do not simply lie one after the other: all parts together are row after row, and in each row lie
    #: so many records of each unit.
    spread: tuple[tuple[int, ...], ...] = ()
    #: Name of the receipt whose place this one takes: it has its parts, and what became of its dead letters.
    replaces: str = ""
    dead: tuple[Part, ...] = ()
    counts: Counts = Counts()
    seconds: float = 0.0
    container: str = ""
    gpu: str | None = None

    @property
    def lying(self) -> tuple[tuple[int, ...], ...]:
        """How the records of the units lie in the parts: `spread`, or its only row. Order: `unit_counts` is known."""
        return self.spread or (tuple(item.out for item in self.unit_counts),)

    def to_bytes(self) -> bytes:
        """Canonical JSON; the pins of inputs are left out, they are of one machine."""
        return encode(self.to_json()).encode()

    def to_json(self) -> Json:
        """Plain data; what only few receipts have is left out of the others."""
        extra: Json = {"spread": self.spread} if self.spread else {}
        if self.replaces:
            extra["replaces"] = self.replaces
        return extra | {
            "format": SINK_FORMAT,
            "split": self.split,
            "fingerprint": self.fingerprint,
            "generation": self.generation,
            "attempt": self.attempt,
            "run_id": self.run_id,
            "inputs": self._inputs(),
            "parts": self.parts,
            "dead": self.dead,
            "counts": self.counts.to_json(),
            "seconds": round(self.seconds, 3),
            "container": self.container,
            "gpu": self.gpu,
        }

    def _inputs(self) -> list[list[Any]]:
        inputs: list[list[Any]] = [[unit.uri, unit.identity, unit.start, unit.end] for unit in self.units]
        for item, counts in zip(inputs, self.unit_counts, strict=False):
            item.append(counts.to_brief())
        for item, unit in zip(inputs, self.units, strict=True):
            if unit.is_piece:
                item.append([unit.low, None if unit.high == ALL_LINES else unit.high])
        return inputs

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Receipt:
        """What `to_json` wrote.

        Raises:
            StateError: a newer format, or not a receipt.
        """
        check_format(data, "receipt")
        try:
            inputs = data["inputs"]
            return cls(
                split=data["split"],
                fingerprint=data["fingerprint"],
                generation=data["generation"],
                attempt=data["attempt"],
                run_id=data["run_id"],
                units=tuple(map(_unit_of, inputs)),
                unit_counts=tuple(Counts.from_json(more) for item in inputs for more in item[4:] if type(more) is dict),
                parts=tuple(Part(*part) for part in data["parts"]),
                spread=tuple(tuple(row) for row in data.get("spread", ())),
                replaces=data.get("replaces", ""),
                dead=tuple(Part(*part) for part in data["dead"]),
                counts=Counts.from_json(data["counts"]),
                seconds=data["seconds"],
                container=data["container"],
                gpu=data["gpu"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"not a receipt: {error!r}") from error


def _unit_of(item: list[Any]) -> Unit:
    """One of a receipt's inputs."""
    uri, identity, start, end, *more = item
    unit = Unit(uri, identity, "", start, end, False)
    for low, high in (lines for lines in more if type(lines) is list):
        unit = unit.piece(low, ALL_LINES if high is None else high)
    return unit


def parse_receipt(data: bytes) -> Receipt:
    """The receipt in a sink's object.

    Raises:
        StateError: torn, altered or newer.
    """
    return Receipt.from_json(parse_json(data, "receipt"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One write-once piece of a manifest: JSON lines, a live receipt each, with its name."""

    name: str
    sha256: str
    receipts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The index of live receipts after a run; write-once, numbered from 1."""

    number: int
    run_id: str
    #: Fingerprints whose receipts count as done.
    accepted: tuple[str, ...]
    segments: tuple[Segment, ...] = ()
    #: Names of receipts that are void for ever and may be swept.
    retired: tuple[str, ...] = ()
    counts: Counts = Counts()
    n_receipts: int = 0
    part_bytes: int = 0
    extra: Json = field(default_factory=dict)

    def is_void(self, name: str) -> bool:
        """Whether a receipt of this name, live or not, may be one that was retired and that a sweep still takes.

        A late attempt may write a retired name again after it was deleted; once the manifests have forgotten the name,
        the highest generation forgotten of its fingerprint (`extra.void`) speaks for it.
        """
        found = parse_receipt_name(name)
        return found is not None and found.generation <= self.extra.get("void", {}).get(found.fp8, 0)

    def void_with(self, forgotten: Iterable[str]) -> dict[str, int]:
        """`extra.void` of a manifest that does not list these retired names any more."""
        void: dict[str, int] = dict(self.extra.get("void", {}))
        for found in filter(None, map(parse_receipt_name, forgotten)):
            void[found.fp8] = max(void.get(found.fp8, 0), found.generation)
        return void

    def to_bytes(self) -> bytes:
        """Canonical JSON, sealed."""
        return seal(asdict(self) | {"format": SINK_FORMAT, "counts": self.counts.to_json()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """What `to_bytes` wrote.

        Raises:
            StateError: torn, altered or newer.
        """
        plain = unseal(data, "manifest")
        try:
            return cls(
                number=plain["number"],
                run_id=plain["run_id"],
                accepted=tuple(plain["accepted"]),
                segments=tuple(Segment(**segment) for segment in plain["segments"]),
                retired=tuple(plain["retired"]),
                counts=Counts.from_json(plain["counts"]),
                n_receipts=plain["n_receipts"],
                part_bytes=plain["part_bytes"],
                extra=plain["extra"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"not a manifest: {error!r}") from error


def actual_uri(uri: str, roots: Mapping[str, str]) -> str:
    """Where a logical URI is read here: the longest matching prefix of `roots` replaced; URIs with a scheme and
    absolute paths stand for themselves unless a root says otherwise."""
    best = max((prefix for prefix in roots if prefix and uri.startswith(prefix)), key=len, default="")
    if best:
        return roots[best] + uri[len(best) :]
    if "://" in uri or uri.startswith("/") or "" not in roots:
        return uri
    return roots[""].rstrip("/") + "/" + uri


def total(counts: Iterable[Counts]) -> Counts:
    """The sum."""
    result = Counts()
    for item in counts:
        result = result + item
    return result
