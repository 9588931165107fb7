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


def test_objects_are_listed_and_removed_by_name(bench):
    output = bench.python(
        "import modal\n"
        "queues, secrets, dicts = modal.Queue.objects, modal.Secret.objects, modal.Dict.objects\n"
        "queues.create('listed'); secrets.create('listed', {'B': '1', 'A': '2'}); dicts.create('listed')\n"
        "modal.Queue.from_name('listed').put_many([1, 2], partition='p')\n"
        "for kind in (queues, secrets, dicts):\n"
        "    (found,) = [item for item in kind.list() if item.name == 'listed']\n"
        "    info = found.info(); print('INFO', info.name, info.created_by, info.created_at.year > 2000)\n"
        "    kind.delete('listed'); print('LEFT', [item.name for item in kind.list() if item.name == 'listed'])\n"
    )
    assert output.count("INFO listed you True") == 3
    assert output.count("LEFT []") == 3


def test_a_queue_is_listed_with_its_size(bench):
    bench.python("import modal; modal.Queue.from_name('sized', create_if_missing=True).put_many([1, 2], partition='p')")
    (row,) = [line for line in bench.modal("queue", "list").splitlines() if "sized" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][-2:] == ["1", "2"]


def test_more_names_than_a_page_are_listed(bench):
    output = bench.python(
        "import modal\n"
        "for number in range(101):\n    modal.Dict.objects.create(f'many-{number}')\n"
        "print('N', len([item for item in modal.Dict.objects.list() if item.name.startswith('many-')]))\n"
    )
    assert "N 101" in output


def test_a_secret_in_a_file_is_not_removed(bench):
    (bench.home / "secrets").mkdir(exist_ok=True)
    (bench.home / "secrets" / "own.env").write_text("TOKEN=abc\n")
    output = bench.modal("secret", "delete", "own", "--yes", code=1)
    assert "a secret in a file is yours to remove" in output
    assert (bench.home / "secrets" / "own.env").exists()
