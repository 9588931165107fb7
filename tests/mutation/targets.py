"""The modules in which no mistake may go unseen, and the fast tests that must see it. Printed: all of the tests."""

from __future__ import annotations

SIM = "tests/sim/test_sample.py"
SINKS = "tests/unit/sinks"
DRIVER = "tests/unit/driver"
LINES = ["tests/unit/sources/test_lines.py", "tests/property/test_lines.py", "tests/unit/sources/test_file_source.py"]

#: Module → tests, the fastest first.
TARGETS: dict[str, list[str]] = {
    "modalbatch.runtime.commit": ["tests/unit/runtime/test_commit.py", SIM],
    "modalbatch.sinks.objects": [SINKS, f"{DRIVER}/test_generations.py", SIM],
    "modalbatch.sinks.attempts": [f"{SINKS}/test_attempt_sink.py", SIM],
    "modalbatch.driver.sweep": [f"{DRIVER}/test_sweep.py", f"{DRIVER}/test_endings.py", SIM],
    "modalbatch.driver.publish": [
        f"{DRIVER}/test_publish.py",
        f"{DRIVER}/test_generations.py",
        f"{DRIVER}/test_endings.py",
        SIM,
    ],
    "modalbatch.runtime.divide": ["tests/unit/runtime/test_halves.py"],
    "modalbatch.driver.cover": ["tests/property/test_cover.py"],
    "modalbatch.sources.lines": LINES,
}

if __name__ == "__main__":
    print(*dict.fromkeys(test for tests in TARGETS.values() for test in tests))
