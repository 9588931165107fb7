"""Modules read by their text alone."""

import pytest

from modalbatch.compiler import discover

TEXT = """
import functools
from other import borrowed

LIMIT = 3
partial = functools.partial(print)

def plain(record, *, lang="en"): ...
async def coroutine(record): ...
def generator(record):
    yield record

@functools.cache
def decorated(): ...

if LIMIT:
    def conditional(record): ...
else:
    def otherwise(record): ...

try:
    import fast as engine
except ImportError:
    engine = None

class Base:
    def __call__(self, record): ...

class Child(Base):
    pass

class Plain(object):
    def __init__(self, model, /, dim=3, *rest, lang, **more): ...
    __call__ = plain
"""


@pytest.fixture
def module(tmp_path):
    (tmp_path / "m.py").write_text(TEXT)
    return discover.read_module(tmp_path / "m.py")


def test_every_top_level_name_is_found(module):
    kinds = {name: item.kind for name, item in module.definitions.items()}
    assert kinds == {
        "functools": "unknown", "borrowed": "unknown", "LIMIT": "value", "partial": "unknown", "plain": "function",
        "coroutine": "function", "generator": "function", "decorated": "function", "conditional": "function",
        "otherwise": "function", "engine": "value", "Base": "class", "Child": "class", "Plain": "class",
    }  # fmt: skip
    assert module.definitions["plain"].line == 8


def test_parameters_are_known_where_the_text_tells(module):
    plain = module.definitions["plain"].parameters
    assert (plain.positional, plain.required, plain.named) == (("record",), ("record",), ("record", "lang"))
    assert module.definitions["decorated"].parameters is None
    constructor = module.definitions["Plain"].parameters
    assert constructor.positional == ("model", "dim")
    assert constructor.required == ("model", "lang")
    assert constructor.named == ("dim", "lang")
    assert (constructor.has_args, constructor.has_kwargs) == (True, True)


def test_a_base_class_may_bring_anything(module):
    assert module.definitions["Child"].parameters is None
    assert not module.definitions["Child"].is_uncallable
    assert not module.definitions["Plain"].is_uncallable


def test_only_imports_that_always_run_count(module):
    assert set(module.imports) == {"functools", "other"}


def test_stars_and_module_getattr_leave_a_module_open(tmp_path):
    (tmp_path / "a.py").write_text("from x import *\n")
    (tmp_path / "b.py").write_text("def __getattr__(name): ...\n")
    assert discover.read_module(tmp_path / "a.py").is_open
    assert discover.read_module(tmp_path / "b.py").is_open


def test_packages_with_and_without_init_are_modules(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/x.py").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "one.py").write_text("")
    assert discover.modules_beside(tmp_path) == ["bare", "one", "pkg"]
    assert discover.find_module(tmp_path, "bare.x") == tmp_path / "bare/x.py"
    assert discover.find_module(tmp_path, "pkg") == tmp_path / "pkg/__init__.py"
    assert discover.find_module(tmp_path, "bare") is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0", "the file is not text"),
        (b"#" * (4 << 20) + b"#", "the file is larger than 4 MiB"),
        (b"x = " + b"(" * 100_000 + b")" * 100_000, None),
    ],
)
def test_what_is_not_python_is_a_syntax_error(tmp_path, data, message):
    (tmp_path / "m.py").write_bytes(data)
    with pytest.raises(SyntaxError) as caught:
        discover.read_module(tmp_path / "m.py")
    assert message is None or caught.value.msg == message


def test_nothing_of_a_module_runs(tmp_path):
    (tmp_path / "m.py").write_text("raise SystemExit('ran')\n")
    assert discover.read_module(tmp_path / "m.py").definitions == {}
