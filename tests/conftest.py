"""What all tests share: a clean environment, one cache of image environments, and a look at what is left behind."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Variables of the person who runs the tests that would change what is tested.
_FOREIGN = (
    "MODAL_",
    "MODALBATCH_",
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "STORAGE_EMULATOR_HOST",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "NO_COLOR",
    "FORCE_COLOR",
    "COLUMNS",
)
_KEPT = ("MODALBATCH_CACHE", "MODALBATCH_TEST_CACHE", "MODALBATCH_STRESS")
_GRACE_MS = 10_000
_FOLDERS = pytest.StashKey[set[Path]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="rewrite golden files with what the code says now")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs the suite in the background has it ignore Ctrl-C, and every command in the tests with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith(_FOREIGN) and name not in _KEPT]:
        del os.environ[name]
    # No account, no cloud: a test that reaches for one fails at once instead of using the developer's.
    os.environ |= {
        "MODAL_CONFIG_PATH": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    cache = os.environ.setdefault("MODALBATCH_CACHE", str(ROOT / ".tools" / "cache"))
    os.environ.setdefault("MODALBATCH_TEST_CACHE", cache)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_FOLDERS] = _engine_folders()


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Only where nobody else's engines come and go, and once: not in each worker of xdist.
    if os.environ.get("CI") and not hasattr(session.config, "workerinput"):
        left = _engine_folders() - session.config.stash[_FOLDERS] - _listening_folders()
        if left:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            reporter = session.config.pluginmanager.get_plugin("terminalreporter")
            reporter.write_line(f"\nERROR: tests left folders of engines behind: {sorted(map(str, left))}", red=True)


@pytest.fixture
def bless(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten."""
    return bool(request.config.getoption("--bless"))


@pytest.fixture(scope="session", autouse=True)
def nothing_stays() -> Iterator[None]:
    """Processes that the tests of this process started are gone at the end."""
    mark = f"MODALBATCH_TESTS_OF_{os.getpid()}"
    # It is in the environment of everything that is started from here on, however deep; not in our own `/proc` entry.
    os.environ[mark] = "1"
    yield
    del os.environ[mark]
    left = [found for pid in _processes(mark.encode()) if (found := _still_there(pid))]
    assert left == [], "tests left processes behind"


def _processes(mark: bytes) -> Iterator[int]:
    """Whatever was started with the mark in its environment, and forks of ourselves that nobody has waited for."""
    own = Path("/proc/self/cmdline").read_bytes()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ, command = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        # An orphan tells nobody's name: where other people's tests may run at the same time, only children are ours.
        is_fork = command == own and parent in ((os.getpid(), 1) if os.environ.get("CI") else (os.getpid(),))
        if (
            mark in environ or (is_fork and int(folder.name) != os.getpid())
        ) and b"multiprocessing.resource_tracker" not in command:
            yield int(folder.name)


def _still_there(pid: int) -> str:
    """The command of a process that does not end by itself within the grace; empty for one that did."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return ""
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if poll.poll(_GRACE_MS):
            return ""
        return f"{pid}: " + Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    finally:
        os.close(handle)


def _engine_folders() -> set[Path]:
    return set(Path("/tmp").glob("mbe-*"))


def _listening_folders() -> set[Path]:
    words = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return {Path(line[-1]).parent for line in words if line[-1].startswith("/tmp/mbe-")}
