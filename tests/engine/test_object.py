"""Secrets, dicts and queues."""

from __future__ import annotations

from engine_bench import Bench

from modalbatch.engines.local import LocalEngine

_SECRET_APP = """
import os, modal
app = modal.App("secretive")
inline = modal.Secret.from_dict({{"INLINE": "one"}})
@app.function(secrets=[inline, modal.Secret.from_name({name}, required_keys={keys})])
def read(names):
    return [os.environ.get(name) for name in names]
if __name__ == "__main__":
    with app.run():
        print("READ", read.remote(["INLINE", "TOKEN", "QUOTED", "OTHER"]))
"""


def _run(bench, tmp_path, name, keys, code=0):
    path = tmp_path / "secretive.py"
    path.write_text(_SECRET_APP.format(name=repr(name), keys=keys))
    return bench.command(__import__("sys").executable, str(path), code=code)


def test_a_named_secret_is_a_file(bench, tmp_path):
    folder = bench.home / "secrets"
    folder.mkdir()
    (folder / "hf.env").write_text('# a comment\nexport TOKEN=abc # why\nQUOTED="two\\nlines"\n')
    assert "READ ['one', 'abc', 'two\\nlines', None]" in _run(bench, tmp_path, "hf", ["TOKEN"])
    (folder / "hf.env").write_text("TOKEN='new'\n")
    assert "READ ['one', 'new', None, None]" in _run(bench, tmp_path, "hf", ["TOKEN"])
    output = _run(bench, tmp_path, "hf", ["TOKEN", "OTHER"], 1)
    assert "secret `hf` lacks OTHER" in output


def test_a_missing_secret_says_which_file_to_write(bench, tmp_path):
    output = _run(bench, tmp_path, "nowhere", ["TOKEN"], 1)
    assert "secret `nowhere` is not on this machine" in output
    assert "nowhere.env with lines like" in output.replace("\n", " ") or "TOKEN=..." in output


def test_required_keys_come_from_the_environment_that_started_the_engine(home, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "from the shell")
    monkeypatch.setenv("OTHER", "not asked for")
    with LocalEngine(home) as engine:
        output = _run(Bench(home, engine), tmp_path, "shell", ["TOKEN"])
    assert "READ ['one', 'from the shell', None, None]" in output


def test_dict_and_queue(bench):
    output = bench.python(
        "import modal\n"
        "with modal.Dict.ephemeral() as d, modal.Queue.ephemeral() as q:\n"
        "    d['a'] = 1; d.update(b=2); print('DICT', d.get('a'), d.get('z', 9), d.len(), 'b' in d, d.pop('b'))\n"
        "    print('PUT', d.put('a', 5, skip_if_exists=True), d.put('c', 6, skip_if_exists=True), d['a'])\n"
        "    print('ITEMS', sorted(d.items()), sorted(d.keys())); d.clear(); print('CLEAR', d.len())\n"
        "    q.put(5); q.put_many([6, 7]); q.put(8, partition='p')\n"
        "    print('QUEUE', q.get(), q.len(), q.get_many(5), q.get(block=False), q.get(partition='p'))\n"
        "named = modal.Dict.from_name('kept', create_if_missing=True); named['x'] = 1\n"
        "print('NAMED', modal.Dict.from_name('kept')['x'])\n"
    )
    assert "DICT 1 9 2 True 2" in output
    assert "PUT False True 1" in output
    assert "ITEMS [('a', 1), ('c', 6)] ['a', 'c']" in output
    assert "CLEAR 0" in output
    assert "QUEUE 5 2 [6, 7] None 8" in output
    assert "NAMED 1" in output
    assert "kept" in bench.modal("dict", "list")
