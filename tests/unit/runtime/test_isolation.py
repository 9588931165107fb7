"""Handlers that meddle with their process: what is committed for the other records stays what it would have been."""

from __future__ import annotations

import json
import os
import select

import pytest

from modalbatch.job import Compute, Retries
from modalbatch.sinks.objects import ObjectSink
from modalbatch.stores.local import LocalStore

N = 12
RECORDS = [{"n": n, "x": {"deep": [n]}} for n in range(N)]
FORMS = pytest.mark.parametrize("fields", [{}, {"batch_size": 3}, {"concurrency": 2}], ids=["each", "batch", "threads"])
#: A handler for one record or a list of them: `meddle(r)` runs for record 3 before its result is made.
BODY = """
import json, sys, os, time, signal, threading, random
{meddle}
def one(r):
    if r["n"] == 3:
        meddle(r)
    return {{"n": r["n"]}}
def work(got):
    return [one(r) for r in got] if isinstance(got, list) else one(got)
"""

#: What record 3 does to everybody. Its own result is a result all the same.
MEDDLING = {
    "fork-ends": "def meddle(r):\n  if not os.fork(): os._exit(0)",
    "fork-exits": "def meddle(r):\n  if not os.fork(): sys.exit(0)",
    "fork-stays": "def meddle(r):\n  if not os.fork():\n    time.sleep(600)",
    "fork-returns": "def meddle(r):\n  os.fork()",
    "fork-twice": "def meddle(r):\n  os.fork()\n  os.fork()",
    "fork-raises": "def meddle(r):\n  if not os.fork(): raise ValueError('in the child')",
    "fork-dies": "def meddle(r):\n  if not os.fork(): os.kill(os.getpid(), 9)",
    "fork-in-a-thread": "def meddle(r):\n  t = threading.Thread(target=os.fork); t.start(); t.join()",
    "subprocess-stays": (
        "def meddle(r):\n  import subprocess\n  subprocess.Popen(['sleep', '600'], close_fds=False, preexec_fn=int)"
    ),
    "pool": (
        "def meddle(r):\n  import multiprocessing\n"
        "  with multiprocessing.get_context('fork').Pool(2) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]"
    ),
    "prints": (
        "def meddle(r):\n"
        "  for stream in (sys.stdout, sys.stderr):\n"
        "    print(json.dumps({'kind': 'done', 'counts': {}, 'units': []}), file=stream, flush=True)\n"
        '  os.write(1, b\'{"kind": "failed"}\\n\\xff\\x00\\x1b[2J\')'
    ),
    "no-stdio": "def meddle(r):\n  os.closerange(0, 3)",
    "no-descriptors": "def meddle(r):\n  os.closerange(3, 1024)",
    "no-descriptors-at-all": "def meddle(r):\n  os.closerange(0, 65536)",
    "takes-their-numbers": (
        "def meddle(r):\n  os.closerange(3, 100)\n"
        "  meddle.files = [open(os.path.join(folder, 'theirs'), 'ab+') for _ in range(40)]"
    ),
    "sockets-take-their-numbers": (
        "def meddle(r):\n  import socket\n  os.closerange(3, 100)\n"
        "  meddle.pairs = [socket.socketpair() for _ in range(20)]"
    ),
    "closed-streams": "def meddle(r):\n  sys.stdout.close(); sys.stderr.close()",
    "other-streams": "def meddle(r):\n  sys.stdout = sys.stderr = None",
    "odd-streams": "def meddle(r):\n  sys.stdout = sys.stderr = 7",
    "seeds": "def meddle(r):\n  random.seed(1); os.environ['PYTHONHASHSEED'] = '0'",
    "chdir": "def meddle(r):\n  os.chdir('/'); os.environ['TMPDIR'] = '/nowhere'; os.environ.clear()",
    "a-folder-that-is-gone": ("def meddle(r):\n  import tempfile\n  d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)"),
    "sys-path": "def meddle(r):\n  sys.path.clear(); sys.meta_path.clear(); sys.path_hooks.clear()",
    "locale": (
        "def meddle(r):\n  import locale\n  locale.setlocale(locale.LC_ALL, 'C'); os.environ['LC_ALL'] = 'tr_TR'"
    ),
    "umask": "def meddle(r):\n  os.umask(0o077)",
    "recursion-limit": "def meddle(r):\n  sys.setrecursionlimit(120)",
    "json": "def meddle(r):\n  json.dumps = json.loads = lambda *a, **k: 'patched'",
    "open": "def meddle(r):\n  import builtins, io\n  builtins.open = io.open = None",
    "time": "def meddle(r):\n  time.time = time.monotonic = time.sleep = time.perf_counter = lambda *a: 0.0",
    "threads-outlive": (
        "def meddle(r):\n  for _ in range(5): threading.Thread(target=time.sleep, args=(600,)).start()"
    ),
    "no-gc": "def meddle(r):\n  import gc\n  gc.disable(); gc.freeze()",
    "faulthandler": "def meddle(r):\n  import faulthandler\n  faulthandler.enable()",
    "warnings": "def meddle(r):\n  import warnings\n  warnings.simplefilter('error')",
    "own-handlers": "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef meddle(r): signal.siginterrupt(15, True)",
    "terminates-itself": "def meddle(r):\n  os.kill(os.getpid(), signal.SIGTERM)",
    "interrupts-itself": "def meddle(r):\n  os.kill(os.getpid(), signal.SIGINT)",
    "own-session": "def meddle(r):\n  signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))",
    "traces": "def meddle(r):\n  sys.settrace(lambda *a: None); threading.settrace(lambda *a: None)",
    "changes-its-input": "def meddle(r):\n  r['x']['deep'].append('theirs')",
}


@FORMS
@pytest.mark.parametrize("name", list(MEDDLING))
def test_meddling_changes_nothing_for_others(run, name, fields) -> None:
    code = BODY.format(meddle=MEDDLING[name])
    ran = run(code, RECORDS, compute=Compute(timeout_s=60), keep=("n", "x"), **fields)
    assert ran.outcome["exit_code"] == 0, ran.outcome
    assert sorted(ran.records, key=lambda record: record["n"]) == RECORDS
    assert ran.counts == (N, N, 0, 0, 0)


#: What record 3 does to itself: it alone becomes a dead letter of this cause.
HARM = {
    "os-exit": ("def meddle(r): os._exit(0)", "crash"),
    "sys-exit": ("def meddle(r): sys.exit()", "raised"),
    "keyboard-interrupt": ("def meddle(r): raise KeyboardInterrupt", "crash"),
    "generator-exit": ("def meddle(r): raise GeneratorExit", "crash"),
    "base-exception": ("class Own(BaseException): pass\ndef meddle(r): raise Own('x')", "crash"),
    "unprintable": (
        "class Own(Exception):\n  def __str__(self): raise RuntimeError('no')\n  __repr__ = __str__\n"
        "def meddle(r): raise Own",
        "raised",
    ),
    "unprintable-for-ever": (
        "class Own(Exception):\n  def __str__(self): raise self\ndef meddle(r): raise Own",
        "raised",
    ),
    "lone-surrogates": ("def meddle(r): raise ValueError('\\ud800')", "raised"),
    "surrogate-type": ("def meddle(r): raise type('\\udc00', (Exception,), {})('x')", "raised"),
    "circular-context": (
        "def meddle(r):\n  a, b = ValueError('a'), ValueError('b')\n"
        "  a.__context__, b.__context__ = b, a\n  a.__cause__ = b\n  raise a",
        "raised",
    ),
    "raising-attributes": (
        "class Own(Exception):\n  @property\n  def response(self): raise RuntimeError('no')\n"
        "  status_code = property(lambda self: 1 / 0)\n  headers = response\n"
        "def meddle(r): raise Own('x')",
        "raised",
    ),
    "deep-recursion": ("def meddle(r): meddle(r)", "raised"),
    "aborts": ("def meddle(r): os.abort()", "crash"),
    "segfaults": ("def meddle(r): os.kill(os.getpid(), 11)", "crash"),
    "no-memory": ("def meddle(r): raise MemoryError", "oom"),
}


@FORMS
@pytest.mark.parametrize("name", list(HARM))
def test_harm_is_paid_by_the_record_that_does_it(run, name, fields) -> None:
    meddle, cause = HARM[name]
    ran = run(BODY.format(meddle=meddle), RECORDS, compute=Compute(timeout_s=60), **fields)
    assert sorted(record["n"] for record in ran.records) == [n for n in range(N) if n != 3]
    assert [(letter["cause"], letter["record"]) for letter in ran.letters] == [(cause, RECORDS[3])]
    if name != "unprintable-for-ever":  # which adds who asked to its own traceback
        assert "modalbatch" not in ran.letters[0]["error"]["traceback"]


#: What kills the slot later, while another record is in it.
DELAYED = {
    "alarm": "def meddle(r): signal.setitimer(signal.ITIMER_REAL, 0.15)",
    "thread": "def meddle(r): threading.Timer(0.15, os._exit, (7,)).start()",
    "faulthandler": "def meddle(r):\n  import faulthandler\n  faulthandler.dump_traceback_later(0.15, exit=True)",
}


@pytest.mark.parametrize("fields", [{}, {"batch_size": 3}], ids=["each", "batch"])
@pytest.mark.parametrize("name", list(DELAYED))
def test_what_kills_later_is_not_put_down_to_whoever_is_there_then(run, name, fields) -> None:
    """A suspect is called again in a new slot that has called nobody else: only then it is dead."""
    code = BODY.format(meddle=DELAYED[name]).replace("def one(r):", "def one(r):\n    time.sleep(0.06)")
    ran = run(code, RECORDS, compute=Compute(timeout_s=60), **fields)
    # Record 3 itself may do it once more, alone; nobody else pays.
    assert {record["n"] for record in ran.records} >= {n for n in range(N) if n != 3}
    assert [letter["record"]["n"] for letter in ran.letters] in ([], [3])


# -- results


RESULTS = """
import collections
class Lying(dict):
    def values(self): return []
    def items(self): return [("n", "a lie")]
    def setdefault(self, *a): raise RuntimeError("no")
    def __len__(self): return 0
class Raising(dict):
    def __iter__(self): raise RuntimeError("no")
    def keys(self): raise RuntimeError("no")
class Claims:
    __class__ = dict
class Canary(dict):
    def __reduce__(self): return (open, (folder + "/canary", "w"))
class CanaryError(Exception):
    def __reduce__(self): return (open, (folder + "/canary", "w"))
def midway(r):
    yield {"n": r["n"]}
    raise ValueError("midway")
def work(r):
    n = r["n"]
    if n == 1: return Lying(n=1)
    if n == 2: return Raising(n=2)
    if n == 3: return Claims()
    if n == 4: return Canary(n=4)
    if n == 5: raise CanaryError("x")
    if n == 6: return midway(r)
    if n == 7: return collections.OrderedDict(n=7)
    if n == 8: return {"n": 8, "nan": Lying(x=float("nan"))}
    if n == 9: return [{"n": 9}, 7]
    if n == 10: return {"n": 10, "big": "x" * (20 << 20)}
    if n == 11: return {"n": 11, "set": iter([1])}
    return r
"""


@pytest.mark.parametrize("fields", [{}, {"batch_size": 3}], ids=["each", "batch"])
def test_results_that_lie_raise_or_execute(run, tmp_path, fields) -> None:
    """F32 L"""
    code = RESULTS
    if fields:
        code += "single = work\ndef work(rs):\n  return [one(r) for r in rs]\n"
        code += "def one(r):\n  try: got = single(r)\n  except Exception as error: return error\n  return got\n"
    ran = run(code, RECORDS, **fields)
    found = {record["n"]: record for record in ran.records}
    assert set(found) >= {0, 1, 4, 7, 10}
    assert {letter["record"]["n"] for letter in ran.letters} >= {3, 5, 6, 9, 11}
    assert found[1] == {"n": 1}
    assert len(found[10]["big"]) == 20 << 20
    assert len(ran.records) + len(ran.letters) == N
    assert not (tmp_path / "canary").exists()


@FORMS
def test_one_dict_for_all_records_keeps_their_fields_apart(run, fields) -> None:
    code = """
    shared = {"made": True}
    def work(got):
        return [shared for _ in got] if isinstance(got, list) else shared
    """
    ran = run(code, RECORDS, keep=("n",), **fields)
    assert sorted(record["n"] for record in ran.records) == list(range(N))
    assert all(set(record) == {"made", "n"} for record in ran.records)


@FORMS
def test_its_own_input_as_result(run, fields) -> None:
    code = "def work(got):\n  for r in got if isinstance(got, list) else [got]: r['seen'] = True\n  return got"
    ran = run(code, RECORDS, keep=("n", "x"), **fields)
    assert sorted(ran.records, key=lambda record: record["n"]) == [record | {"seen": True} for record in RECORDS]


def test_a_dead_letter_is_not_written_by_what_the_handler_has_patched(run) -> None:
    code = """
    import json
    json.dumps = json.loads = json.JSONEncoder.encode = json.JSONEncoder.default = lambda *a, **k: "patched"
    def work(r):
        if r["n"] == 3:
            raise ValueError("three")
        return r
    """
    ran = run(code, RECORDS)
    assert [letter["record"] for letter in ran.letters] == [RECORDS[3]]
    assert len(ran.records) == N - 1


def test_attempts_have_names_of_their_own_whatever_is_seeded(run, tmp_path) -> None:
    code = """
    import random, os, uuid, secrets
    random.seed(0)
    os.urandom = lambda n: bytes(n)
    uuid.uuid4 = lambda: uuid.UUID(int=0)
    secrets.token_hex = lambda n=16: "0" * 2 * n
    random.SystemRandom.getrandbits = lambda self, n: 0
    def work(r): return r
    """
    seen = set()
    for n in range(3):
        run(code, [{"n": n}], version=str(n), retries=Retries(max_retries=0))
        sink = ObjectSink(LocalStore(str(tmp_path / "out")))
        seen |= {receipt.attempt for _, receipt in sink.live(sink.newest())}
    assert len(seen) == 3
    assert "0" * 32 not in seen


def test_no_process_and_no_file_of_ours_is_left(run, tmp_path) -> None:
    """Children that stay are ended with their slot; spool files with their attempt."""
    code = BODY.format(
        meddle="def meddle(r):\n  pid = os.fork()\n  if not pid: time.sleep(600)\n"
        "  with open(folder + '/child', 'w') as file: file.write(str(pid))"
    )
    run(code, RECORDS)
    assert _has_ended(int((tmp_path / "child").read_text()))
    assert list((tmp_path / "out/_modalbatch/tmp").iterdir()) == []


def _has_ended(pid: int) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    has_ended = bool(poll.poll(10_000))  # killed already, and not waited for yet
    os.close(handle)
    return has_ended


def test_nothing_is_unpickled_where_results_go(run, tmp_path) -> None:
    """F32 L: The worker and the driver import no pickle for it, and a record that looks like one stays text."""
    text = "cos\nsystem\n(S'touch " + str(tmp_path / "canary") + "'\ntR."
    ran = run("def work(r): return r", [{"n": 0, "text": text}])
    assert [record["text"] for record in ran.records] == [text]
    assert not os.path.exists(tmp_path / "canary")
    assert json.loads(json.dumps(ran.outcome)) == ran.outcome
