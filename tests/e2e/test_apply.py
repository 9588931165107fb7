"""`apply` on the local engine, from an empty folder to every kind of change."""

from __future__ import annotations

import json
import re
from collections import Counter

from command import live_records, write_records


def plain(text: str) -> str:
    """A command's words with what differs between two runs taken out."""
    text = re.sub(r"\d{8}-\d{6}-[0-9a-f]{6}", "RUN", text)
    text = re.sub(r"in [\d.]+ s:", "in TIME:", text)
    return re.sub(r"[\d,]+ records/s", "RATE", text)


def test_wordcount_is_what_an_independent_count_says(modalbatch, example, work):
    spec = example("wordcount")
    done = modalbatch("apply", str(spec), "--json")
    assert (done.code, done.json["status"], done.json["counts"]["in"]) == (0, "done", 7957)
    expected = {}
    for path in sorted((work / "data").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            verse = json.loads(line)
            words = Counter(filter(None, (word.strip(".,;:?!()[]'\"").lower() for word in verse["text"].split())))
            top = sorted(words.items(), key=lambda item: (-item[1], item[0]))[0]
            expected[verse["id"]] = [sum(words.values()), len(words), *top]
    found = live_records(work / "out")
    assert {item.pop("id"): [*item.values()] for item in found} == expected
    assert (work / "out" / "_SUCCESS").exists()


def test_what_a_person_reads(modalbatch, squares):
    done = modalbatch("apply", "squares.yaml")
    assert done.code == 0
    assert done.out == ""
    words = re.sub(r"fingerprint [0-9a-f]{8}", "fingerprint F", plain(done.err))
    words = re.sub(r"(?m)^running: .*\n", "", words)  # said after some seconds, which a slow machine may take
    assert re.sub(r"local · \d+ containers?", "local · N containers", words) == (
        "local · N containers · out/\n"
        "squares: 2 inputs, 2 splits, 90 bytes · fingerprint F · the sink is new\n"
        "  + new: 2 splits, 90 bytes: data/a.jsonl, data/b.jsonl\n"
        "processing 2 splits, 90 bytes, for manifest 1\n"
        "done in TIME: 10 records in: 10 out, 0 dead, 0 filtered, 0 dropped · RATE\n"
        "splits: 2 done, 0 kept, 0 failed\n"
        "out/: 10 records live, 192 bytes, manifest 1\n"
        "next: modalbatch ls · modalbatch cat · modalbatch verify\n"
    )


def test_again_there_is_nothing_to_do(modalbatch, squares):
    assert modalbatch("apply", "squares.yaml").code == 0
    before = sorted(path.name for path in squares.rglob("*"))
    done = modalbatch("apply", "squares.yaml")
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[-2:] == [
        "nothing to do: manifest 1 says all of it",
        "out/: 10 records live, 192 bytes, manifest 1",
    ]
    assert sorted(path.name for path in squares.rglob("*")) == before


def test_nothing_to_do_restores_success_and_sweeps(modalbatch, squares):
    assert modalbatch("apply", "squares.yaml").code == 0
    (squares / "_SUCCESS").unlink()
    orphan = squares / f"part-{'0' * 24}-{'1' * 8}.jsonl"
    orphan.write_text("{}\n")
    assert modalbatch("apply", "squares.yaml").code == 0
    assert json.loads((squares / "_SUCCESS").read_text())["manifest"] == 1
    assert not orphan.exists()


def test_new_input_is_added_and_changed_input_replaced(modalbatch, squares, work):
    assert modalbatch("apply", "squares.yaml").code == 0
    write_records(work / "data/c.jsonl", [{"n": 7}])
    write_records(work / "data/a.jsonl", [{"n": 8}])
    done = modalbatch("apply", "squares.yaml", "--json")
    assert (done.code, done.json["splits"]) == (0, {"done": 2, "kept": 1, "failed": 0})
    assert sorted(item["n"] for item in live_records(squares)) == [0, 1, 2, 3, 4, 7, 8]
    assert len(list(squares.glob("part-*"))) == 3


def test_a_changed_handler_is_redone_or_kept(modalbatch, squares, work):
    assert modalbatch("apply", "squares.yaml").code == 0
    handler = (work / "handlers.py").read_text()
    (work / "handlers.py").write_text(handler.replace("** 2", "** 2 + 1"))
    kept = modalbatch("apply", "squares.yaml", "--keep", "--json")
    assert (kept.code, kept.json["splits"]["done"], kept.json["manifest"]) == (0, 0, 2)
    assert {item["n"]: item["square"] for item in live_records(squares)}[4] == 16
    again = modalbatch("apply", "squares.yaml", "--json")
    assert again.json["status"] == "nothing_to_do"
    (work / "handlers.py").write_text(handler.replace("** 2", "** 2 + 2"))
    redone = modalbatch("apply", "squares.yaml", "--redo", "--json")
    assert (redone.code, redone.json["splits"]["done"]) == (0, 2)
    assert {item["n"]: item["square"] for item in live_records(squares)}[4] == 18


def test_keep_and_redo_exclude_each_other(modalbatch, squares):
    done = modalbatch("apply", "squares.yaml", "--keep", "--redo")
    assert (done.code, done.err) == (2, "error: `--keep` and `--redo` exclude each other\n")


def test_dead_letters_are_exit_code_1_again_and_again(modalbatch, squares, work):
    """F27 L"""
    write_records(work / "data/b.jsonl", [{"n": 1}, {"m": 2}])
    (work / "squares.yaml").write_text((work / "squares.yaml").read_text() + "retries: 0\n")
    done = modalbatch("apply", "squares.yaml")
    assert done.code == 1
    assert done.err.splitlines()[-2:] == [
        "dead letters: 1 record with error and position in out/_modalbatch/dead/",
        "next: modalbatch errors · modalbatch ls · modalbatch verify",
    ]
    assert not (squares / "_SUCCESS").exists()
    again = modalbatch("apply", "squares.yaml", "--json")
    assert (again.code, again.json["status"], again.json["live"]["dead"]) == (1, "nothing_to_do", 1)


def test_every_kind_of_trouble(modalbatch, example, work):
    done = modalbatch("apply", str(example("flaky")), "--json")
    assert (done.code, done.json["status"]) == (1, "done")
    wanted = Counter(json.loads(line).get("do", "") for path in (work / "data").glob("*.jsonl") for line in path.open())
    n_dead = sum(wanted[do] for do in ("raise", "reject", "crash", "hang"))
    counts = done.json["counts"]
    assert (counts["dead"], counts["filtered"]) == (n_dead, wanted["skip"])
    assert counts["in"] == counts["out_of"] + counts["dead"] + counts["filtered"]


def test_a_class_with_batches(modalbatch, example, work):
    spec = example("class-batch")
    with (work / spec).open("a") as file:
        file.write("retries: 0\n")
    done = modalbatch("apply", str(spec), "--json")
    assert (done.code, done.json["counts"]["in"], done.json["counts"]["dead"]) == (1, 200, 1)


PROBE = """\
import sys
from modalbatch.cli import main
code = main(["apply", "squares.yaml"])
print(code, sorted({"modal", "rich", "boto3", "pyarrow"} & set(sys.modules)))
"""


def test_the_command_itself_imports_nothing_heavy(modalbatch, squares):
    assert modalbatch("-c", PROBE, program="python").out == "0 []\n"


def test_foreign_data_and_other_jobs_are_refused_until_told_otherwise(modalbatch, squares, work):
    squares.mkdir()
    (squares / "mine.txt").write_text("keep me")
    refused = modalbatch("apply", "squares.yaml")
    assert (refused.code, refused.err.splitlines()[1:]) == (
        2,
        [
            "error: the sink `out/` already holds data that is not of modalbatch, for example `mine.txt`",
            "hint: use an empty sink, or add --into-existing to write beside it",
        ],
    )
    assert modalbatch("apply", "squares.yaml", "--into-existing").code == 0
    (work / "squares.yaml").write_text((work / "squares.yaml").read_text().replace("name: squares", "name: other"))
    refused = modalbatch("apply", "squares.yaml")
    assert (refused.code, refused.err.splitlines()[1]) == (2, "error: the sink `out/` belongs to job `squares`")
    assert modalbatch("apply", "squares.yaml", "--adopt").code == 0
    assert (squares / "mine.txt").read_text() == "keep me"


def test_a_rehearsal_with_faults_ends_like_any_other_run(modalbatch, squares, work):
    for name in "cdefgh":
        write_records(work / f"data/{name}.jsonl", [{"n": n} for n in range(5)])
    done = modalbatch("apply", "squares.yaml", "--chaos", "crash=30%,preempt=20%,lost-reply=20%,seed=5")
    assert done.code == 0, done.err
    summary = done.err.splitlines()[-1]
    assert re.match(r"chaos \(seed 5\): (?!nothing)", summary), done.err
    assert sorted(item["n"] for item in live_records(squares)) == sorted([*range(5)] * 8)
    assert modalbatch("verify", "squares.yaml").code == 0
    words = ("apply", "squares.yaml", "--engine", "modal", "--chaos", "crash=1%")
    refused = modalbatch(*words, MODAL_TOKEN_ID="ak-1", MODAL_TOKEN_SECRET="as-1")
    assert refused.code == 2
    assert "`--chaos` is the local engine's" in refused.err
