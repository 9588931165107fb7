"""What `--chaos` says, and whom its faults hit."""

from __future__ import annotations

import pytest

from modalbatch.engines.local.faults.chaos import Chaos, parse
from modalbatch.errors import UsageError


def test_every_word_is_understood():
    chaos = parse("preempt=2%, crash=0.01,hang=.5%,lost-reply=1%,slow=5%,duplicate=100%,delay=250ms,seed=7,")
    assert chaos.seed == 7
    assert chaos.delay_s == 0.25
    assert chaos.shares == {
        "preempt": 0.02, "crash": 0.01, "hang": 0.005, "lost-reply": 0.01, "slow": 0.05, "duplicate": 1.0
    }  # fmt: skip
    assert parse(str(chaos)) == chaos


def test_without_a_seed_there_is_one_that_can_be_repeated():
    chaos = parse("crash=1%")
    assert parse(str(chaos)) == chaos
    assert len({parse("crash=1%").seed for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("prempt=2%", "chaos has no `prempt`", "did you mean `preempt`?"),
        (
            "rain=2%",
            "chaos has no `rain`",
            "it knows preempt, crash, hang, lost-reply, slow, duplicate, and delay and seed",
        ),
        ("crash", "chaos says no value for `crash`", "--chaos crash=2%"),
        ("crash=", "chaos says no value for `crash`", "--chaos crash=2%"),
        ("crash=1%,crash=2%", "chaos says `crash` twice", "say it once: --chaos crash=2%"),
        (
            "crash=often",
            "chaos: `crash=often` is not a share: a percentage, or a fraction of 1",
            "--chaos crash=2%",
        ),
        ("crash=2", "chaos: `crash=2` is not a share: a percentage, or a fraction of 1", "--chaos crash=2%"),
        ("slow=1%,delay=3", "chaos: `delay=3` is not a time", "--chaos delay=500ms"),
        ("slow=1%,seed=x", "chaos: `seed=x` is not a whole number", "--chaos seed=7"),
        ("seed=7", "chaos names no fault", "--chaos preempt=2%,crash=1%,seed=7"),
    ],
)
def test_mistakes_are_told(text, message, hint):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_the_seed_decides_and_shares_are_kept():
    chaos = Chaos(seed=7, shares={"preempt": 0.02, "crash": 0.01, "slow": 0.05})
    names = [f"app/f#1:{i}" for i in range(20_000)]
    struck = [chaos.strike(name, 1) for name in names]
    assert struck == [chaos.strike(name, 1) for name in names]
    assert 300 < struck.count("preempt") < 500
    assert 130 < struck.count("crash") < 270
    assert 850 < sum(chaos.is_slow(name, 1) for name in names) < 1150
    other = Chaos(seed=8, shares=chaos.shares)
    assert struck != [other.strike(name, 1) for name in names]
    assert struck != [chaos.strike(name, 2) for name in names]
    assert all(0 <= chaos.moment_s(name, 1) < 1 for name in names[:100])


def test_nothing_is_hit_for_ever():
    chaos = Chaos(seed=1, shares={"preempt": 1.0, "lost-reply": 1.0, "duplicate": 1.0})
    assert [chaos.strike("f#1:0", delivery) for delivery in range(1, 8)] == ["preempt"] * 5 + [""] * 2
    assert [chaos.is_lost("FunctionMap", "f#1", attempt) for attempt in range(5)] == [True] * 3 + [False] * 2
    assert not chaos.is_doubled("f#1:0", 6)


def test_a_fault_that_is_not_named_never_happens():
    chaos = Chaos(seed=1, shares={"slow": 1.0})
    assert chaos.strike("f#1:0", 1) == ""
    assert not chaos.is_doubled("f#1:0", 1)
    assert not chaos.is_lost("FunctionMap", "f#1", 0)
