"""Faults on request: what `--chaos` asks for, and which input or reply each fault hits. Runs on: laptop.

Owns every decision, as a pure function of the seed, the kind of fault, the input or reply, and its attempt: timing does
not change who is hit, and the same seed hits the same again. Refuses to hit one input for ever, so a command ends.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from modalbatch.errors import UsageError
from modalbatch.units import parse_seconds

#: Where the faults of an engine can be asked for besides `--chaos`.
VARIABLE = "MODALBATCH_CHAOS"
#: Faults that end an input's delivery; one delivery meets the first that hits it.
STRIKES = ("preempt", "crash", "hang")
FAULTS = (*STRIKES, "lost-reply", "slow", "duplicate")
_SETTINGS = ("delay", "seed")
#: Deliveries of one input that faults may hit, and replies that one request may lose: clients ask four times.
_MAX_DELIVERIES, _MAX_LOST = 5, 3
#: A fault strikes within this time after an input's delivery, or when its output comes, if that is earlier.
_WITHIN_S = 1.0
_SHARE = re.compile(r"(\d+\.?\d*|\.\d+)(%?)")
_EXAMPLE = "preempt=2%,crash=1%,seed=7"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """Which share of inputs or replies meets which fault."""

    seed: int
    #: By name of the fault, between 0 and 1; what is not named does not happen.
    shares: Mapping[str, float] = field(default_factory=dict)
    #: How long `slow` holds an input back.
    delay_s: float = 0.5

    def __str__(self) -> str:
        """The form that `parse` reads."""
        faults = [f"{name}={share!r}" for name, share in self.shares.items()]
        return ",".join([*faults, f"delay={self.delay_s!r}s", f"seed={self.seed}"])

    def strike(self, name: str, delivery: int) -> str:
        """The fault that ends a delivery of an input; empty for none. `delivery` counts from 1."""
        if delivery > _MAX_DELIVERIES:
            return ""
        return next((kind for kind in STRIKES if self._hits(kind, name, delivery)), "")

    def moment_s(self, name: str, delivery: int) -> float:
        """How long after a delivery its fault strikes."""
        return _WITHIN_S * self._draw("moment", name, delivery)

    def is_slow(self, name: str, attempt: int) -> bool:
        """Whether an input is held back before it is delivered."""
        return self._hits("slow", name, attempt)

    def is_doubled(self, name: str, delivery: int) -> bool:
        """Whether an input is delivered to a second container as well."""
        return delivery <= _MAX_DELIVERIES and self._hits("duplicate", name, delivery)

    def is_lost(self, rpc: str, name: str, attempt: int) -> bool:
        """Whether the reply to a request is lost; `attempt` is that of the request, from 0."""
        return attempt < _MAX_LOST and self._hits("lost-reply", f"{rpc} {name}", attempt)

    def _hits(self, kind: str, name: str, attempt: int) -> bool:
        share = self.shares.get(kind, 0.0)
        return share > 0 and self._draw(kind, name, attempt) < share

    def _draw(self, kind: str, name: str, attempt: int) -> float:
        """A number in [0, 1), as random as a hash."""
        digest = blake2b(f"{self.seed} {kind} {attempt} {name}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def parse(text: str) -> Chaos:
    """The faults that a text asks for; without `seed=` they get a seed of their own.

    Raises: UsageError that names the word and says what to type.
    """
    chaos, seen = Chaos(seed=secrets.randbelow(1_000_000)), set()
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, equals, value = (part.strip() for part in word.partition("="))
        if name not in FAULTS + _SETTINGS:
            raise UsageError(f"chaos has no `{name}`", hint=_hint(name))
        if name in seen:
            raise UsageError(f"chaos says `{name}` twice", hint=f"say it once: --chaos {name}={value}")
        seen.add(name)
        if not equals or not value:
            raise UsageError(f"chaos says no value for `{name}`", hint=f"--chaos {name}={_sample(name)}")
        chaos = _with(chaos, name, value)
    if not chaos.shares:
        raise UsageError("chaos names no fault", hint=f"--chaos {_EXAMPLE}")
    return chaos


def _with(chaos: Chaos, name: str, value: str) -> Chaos:
    if name == "seed" and value.isascii() and value.isdigit():
        return replace(chaos, seed=int(value))
    if name == "delay":
        with suppress(ValueError):
            return replace(chaos, delay_s=parse_seconds(value))
    if name in FAULTS and (found := _SHARE.fullmatch(value)):
        share = float(found[1]) / (100 if found[2] else 1)
        if share <= 1:
            return replace(chaos, shares={**chaos.shares, name: share})
    wanted = {"seed": "a whole number", "delay": "a time"}.get(name, "a share: a percentage, or a fraction of 1")
    raise UsageError(f"chaos: `{name}={value}` is not {wanted}", hint=f"--chaos {name}={_sample(name)}")


def _hint(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, FAULTS + _SETTINGS, n=1)
    return f"did you mean `{near[0]}`?" if near else f"it knows {', '.join(FAULTS)}, and delay and seed"


def _sample(name: str) -> str:
    return {"seed": "7", "delay": "500ms"}.get(name, "2%")
