"""`verify`: nothing that is wrong passes, nothing that is right is accused."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from modalbatch.canonical import encode, seal
from modalbatch.driver.content import answer_check
from modalbatch.driver.verify import verify
from modalbatch.errors import BusyError, UnavailableError
from modalbatch.names import manifest_name, parse_manifest_name
from modalbatch.records import Manifest, total
from modalbatch.sinks import open_existing
from modalbatch.sources import open_source
from modalbatch.stores import open_store
from sample_sink import Sample, divided, filled

N_MUTATIONS = 700


def prove(out: Path, **options):
    return verify(open_existing(open_store(f"{out}/")), **options)


def elsewhere(out: Path):
    """As other containers answer: text both ways, in any order."""

    def send(requests):
        store, texts = open_store(f"{out}/"), list(requests)
        for text in reversed(texts):
            asked = json.loads(text)
            assert asked.pop("verb") == "check"
            yield encode({"findings": answer_check(store, **asked)})

    return send


def assert_whole(out: Path, **options) -> None:
    proof = prove(out, **options)
    assert (proof.problems, proof.extras) == ((), ())
    assert proof.is_whole


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Sample:
    return filled(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module", params=["none", "gz", "zst", "dead", "history", "attempts", "divided"])
def finished(request, tmp_path_factory) -> Sample:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "dead":
        return filled(folder, bad=3)
    if request.param == "divided":
        return divided(folder)
    if request.param == "attempts":
        return filled(folder, delivery="at_least_once")
    if request.param == "history":
        made = filled(folder)
        made.write("a.jsonl", 160).write("e.jsonl", 20)
        made.run()
        return made
    return filled(folder, compression=request.param)


class Mutation:
    """One random damage to a finished sink, with what must be named."""

    def __init__(self, out: Path, dice: random.Random) -> None:
        self.out, self.dice = out, dice
        self.saved: dict[Path, bytes | None] = {}
        self.names: list[str] = []
        #: Whether it is no fault: nobody who reads the manifest sees it.
        self.is_extra = False
        kinds = [self.delete, self.truncate, self.flip, self.append, self.copy, self.alien, self.swap, self.edit]
        self.what = dice.choice(kinds)

    def apply(self) -> str:
        self.what()
        return f"{self.what.__name__} {self.names}"

    def undo(self) -> None:
        for path, data in self.saved.items():
            if data is None:
                path.unlink()
            else:
                path.write_bytes(data)

    def truth(self) -> list[Path]:
        """Everything that a proof stands on: not the story of runs, not older manifests."""
        control = self.out / "_modalbatch"
        manifests = list(control.glob("manifest-*.json"))
        newest = max(manifests, key=lambda path: parse_manifest_name(f"_modalbatch/{path.name}")[0])
        listed = Manifest.from_bytes(newest.read_bytes())
        segments = [self.out / segment.name for segment in listed.segments]
        lines = [json.loads(line) for path in segments for line in path.read_text().splitlines()]
        objects = [part[0] for line in lines for part in line["parts"] + line["dead"]]
        found = [newest, control / "owner.json", *segments]
        found += [self.out / name for name in objects] + [self.out / line["name"] for line in lines]
        success = self.out / "_SUCCESS"
        return sorted(found + [success] * success.exists())

    def pick(self, pattern: str = "") -> Path:
        return self.dice.choice([path for path in self.truth() if path.name.startswith(pattern)])

    def change(self, path: Path, data: bytes | None) -> None:
        self.note(path.relative_to(self.out).as_posix())
        self.saved[path] = path.read_bytes() if path.exists() else None
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)

    def note(self, name: str) -> None:
        found = parse_manifest_name(name)
        # Of a manifest that is gone nobody knows the hash in its name.
        self.names += [name, manifest_name(found[0])] if found else [name]

    def delete(self) -> None:
        self.change(self.pick(), None)

    def truncate(self) -> None:
        path = self.pick()
        data = path.read_bytes()
        self.change(path, data[: self.dice.randrange(len(data))])

    def flip(self) -> None:
        path = self.pick()
        data = bytearray(path.read_bytes())
        data[self.dice.randrange(len(data))] ^= 1 << self.dice.randrange(8)
        self.change(path, bytes(data))

    def append(self) -> None:
        path = self.pick()
        self.change(path, path.read_bytes() + self.dice.choice([b"\n", b" ", b"{}\n", b"\0"]))

    def copy(self) -> None:
        path = self.pick("part-")
        name = f"{path.name[:30]}{self.dice.randbytes(4).hex()}{path.name[38:]}"
        self.change(path.with_name(name), path.read_bytes())
        self.is_extra = True

    def alien(self) -> None:
        path = self.out / self.dice.choice(["part-00000.jsonl", "part-copy.jsonl", "sub/part-1.parquet"])
        path.parent.mkdir(exist_ok=True)
        self.change(path, b"{}\n")
        self.is_extra = True

    def swap(self) -> None:
        parts = [path for path in self.truth() if path.name.startswith("part-")]
        one, two = self.dice.sample(parts, 2)
        data = one.read_bytes(), two.read_bytes()
        self.change(one, data[1])
        self.change(two, data[0])

    def edit(self) -> None:
        """JSON that still is JSON: one number is another."""
        path = self.dice.choice([path for path in self.truth() if not path.name.startswith("part-")])
        data = bytearray(path.read_bytes())
        digits = [i for i, byte in enumerate(data) if chr(byte) in "123456789"]
        at = self.dice.choice(digits)
        data[at] = ord(self.dice.choice([digit for digit in "123456789" if ord(digit) != data[at]]))
        self.change(path, bytes(data))


def test_every_random_damage_is_named(finished: Sample) -> None:
    dice = random.Random(20261123)
    for number in range(N_MUTATIONS // 7):
        mutation = Mutation(finished.out, dice)
        said = mutation.apply()
        proof = prove(finished.out, send=elsewhere(finished.out) if number % 2 else None)
        found = proof.extras if mutation.is_extra else proof.problems
        assert {finding.object for finding in found} & set(mutation.names), (number, said, proof)
        assert proof.is_whole == mutation.is_extra, (number, said)
        mutation.undo()
    shutil.rmtree(finished.out / "sub", ignore_errors=True)
    assert_whole(finished.out)


def test_a_whole_sink_is_whole(finished: Sample) -> None:
    proof = prove(finished.out)
    manifest = finished.manifest()
    assert proof.to_json()["ok"] is True
    assert (proof.counts, proof.part_bytes, proof.n_receipts) == (
        manifest.counts,
        manifest.part_bytes,
        manifest.n_receipts,
    )
    assert proof.is_complete == (manifest.counts.dead == 0)


def test_many_containers_say_what_one_says(finished: Sample) -> None:
    assert prove(finished.out, send=elsewhere(finished.out)) == prove(finished.out)


def test_a_container_that_cannot_read_is_no_proof(plain: Sample) -> None:
    answer = encode({"error": {"message": "access denied", "hint": "check the credentials"}})
    with pytest.raises(UnavailableError, match="access denied"):
        prove(plain.out, send=lambda requests: [answer for _ in requests])


def test_lines_between_two_pieces_are_missed(tmp_path: Path) -> None:
    made = divided(tmp_path)
    sink = made.sink()
    manifest = made.manifest()
    live = dict(sink.live(manifest))
    gone = max(live, key=lambda name: live[name].units[0].low)
    rest = [receipt for name, receipt in live.items() if name != gone]
    data = b"".join(
        encode({"name": name, **receipt.to_json()}).encode() + b"\n" for name, receipt in live.items() if name != gone
    )
    segment = replace(manifest.segments[0], sha256=hashlib.sha256(data).hexdigest(), receipts=len(rest))
    sink.store.replace(segment.name, data)
    forged = replace(
        manifest,
        segments=(segment,),
        counts=total(receipt.counts for receipt in rest),
        n_receipts=len(rest),
        part_bytes=sum(part.bytes for receipt in rest for part in receipt.parts),
    )
    sink.store.replace(manifest_name(manifest.number), forged.to_bytes())
    sink.mark_success(forged)
    problems = [finding.message for finding in prove(made.out).problems]
    assert {message[:24] for message in problems} == {"no split covers the line"}


def test_a_copied_sink_is_whole(finished: Sample, tmp_path: Path) -> None:
    shutil.copytree(finished.out, tmp_path / "copy")
    assert_whole(tmp_path / "copy")


def test_what_is_kept_of_earlier_runs_is_no_fault(tmp_path: Path) -> None:
    made = filled(tmp_path)
    (tmp_path / "data" / "b.jsonl").unlink()
    made.write("a.jsonl", 10).run()
    assert_whole(made.out)
    made.change_handler()
    made.run()
    assert_whole(made.out)
    made.write("b.jsonl", 3)
    made.run()
    assert_whole(made.out)
    made.run()
    assert_whole(made.out)
    assert made.manifest().number == 4


def test_an_unfinished_run_leaves_a_whole_sink_without_success(tmp_path: Path) -> None:
    made = filled(tmp_path)
    made.allow(0)
    made.write("e.jsonl", 20, bad=2)
    assert made.run()["exit_code"] == 5
    proof = prove(made.out)
    assert proof.problems == ()
    assert not proof.is_complete
    assert [finding.kind for finding in proof.extras] == ["orphan", "orphan"]
    assert proof.extras[1].message == "the manifest does not list it"


def test_nothing_published(tmp_path: Path) -> None:
    made = Sample(tmp_path)
    made.write("a.jsonl", 5, bad=4)
    made.allow(0)
    made.run()
    proof = prove(made.out)
    assert [tuple(finding) for finding in proof.problems] == [
        ("unpublished", "_modalbatch/manifest-000001.json", "no run has published anything yet")
    ]


def test_messages(plain: Sample, tmp_path: Path) -> None:
    shutil.copytree(plain.out, tmp_path / "out")
    out = tmp_path / "out"
    parts = sorted(out.glob("part-*"))
    parts[0].unlink()
    parts[1].write_bytes(b"")
    parts[2].write_bytes(parts[2].read_bytes().replace(b"1", b"2"))
    receipt = sorted((out / "_modalbatch/receipts").iterdir())[0]
    receipt.unlink()
    (out / "_SUCCESS").unlink()
    sizes = {path.name: path.stat().st_size for path in plain.out.glob("part-*")}
    n_records = len((plain.out / parts[0].name).read_text().splitlines())
    assert sorted(map(tuple, prove(out).problems)) == sorted(
        [
            ("missing", parts[0].name, f"{n_records} records, {sizes[parts[0].name]} bytes"),
            ("altered", parts[1].name, f"it has 0 bytes, its receipt says {sizes[parts[1].name]}"),
            ("altered", parts[2].name, "its content is not what its receipt says"),
            ("missing", f"_modalbatch/receipts/{receipt.name}", "the manifest lists it"),
            ("missing", "_SUCCESS", "the last run ended with exit code 0"),
        ]
    )


def rewrite(out: Path, change) -> None:
    """A manifest as a bug of ours would write it: sealed, hashed, and wrong."""
    path = out / "_modalbatch/manifest-000001.json"
    manifest = json.loads(path.read_text())
    manifest.pop("sha256")
    (segment,) = manifest["segments"]
    lines = [json.loads(line) for line in (out / segment["name"]).read_text().splitlines()]
    change(lines, manifest)
    for line in lines:
        (out / line["name"]).write_text(encode({key: value for key, value in line.items() if key != "name"}))
    data = "".join(encode(line) + "\n" for line in lines).encode()
    (out / segment["name"]).write_bytes(data)
    segment.update(sha256=hashlib.sha256(data).hexdigest(), receipts=len(lines))
    path.write_bytes(seal(manifest))
    (out / "_SUCCESS").unlink()
    for end in out.glob("_modalbatch/runs/*/end.json"):
        end.unlink()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda lines, _: lines[0]["counts"].update(dead=1), "inconsistent", "its counts do not add up"),
        (lambda lines, _: lines[0]["inputs"][0][4].update(blank=9), "inconsistent", "the counts of its inputs do not"),
        (lambda _, manifest: manifest.update(part_bytes=1), "inconsistent", "its sums are not those of its splits"),
        (lambda lines, _: lines[0]["parts"][0].__setitem__(3, 1), "inconsistent", "its counts do not add up"),
        (lambda lines, _: lines[1].update(parts=lines[0]["parts"]), "duplicated", "both `"),
        (lambda lines, _: lines[1].update(inputs=lines[0]["inputs"]), "duplicated", "covers `data/"),
        (lambda lines, _: lines[0]["inputs"][0].__setitem__(3, 5000), "duplicated", "another split covers some of"),
        (lambda lines, _: lines[0]["inputs"][0].__setitem__(1, "0" * 64), "duplicated", "two states of `data/"),
        (lambda lines, _: lines[0].update(generation=7), "inconsistent", "its name is not that of its content"),
        (lambda lines, _: lines[0].update(spread=[[1], [1]]), "inconsistent", "where the records of its inputs lie"),
        (lambda lines, _: lines[0].update(spread=[[1, 2]]), "inconsistent", "where the records of its inputs lie"),
    ],
)
def test_what_only_a_bug_of_ours_could_write(plain: Sample, tmp_path: Path, change, kind: str, message: str) -> None:
    shutil.copytree(plain.out, tmp_path / "out")

    def on_large(lines, manifest):
        lines.sort(key=lambda line: (line["inputs"][0][0], line["inputs"][0][2]))
        change(lines, manifest)

    rewrite(tmp_path / "out", on_large)
    proof = prove(tmp_path / "out")
    assert any(found.kind == kind and message in found.message for found in proof.problems), proof.problems


def test_compare_with_the_source(tmp_path: Path) -> None:
    made = filled(tmp_path)
    assert_whole(made.out, source=open_source(made.job, made.roots))
    made.write("c.jsonl", 6).write("e.jsonl", 1)
    (tmp_path / "data/b.jsonl").unlink()
    proof = prove(made.out, source=open_source(made.job, made.roots))
    size = (tmp_path / "data/c.jsonl").stat().st_size, (tmp_path / "data/e.jsonl").stat().st_size
    assert [tuple(finding) for finding in proof.problems] == [
        ("unprocessed", "data/c.jsonl", f"it changed after it was processed: 0-{size[0]}"),
        ("unprocessed", "data/e.jsonl", f"nothing of it was processed: 0-{size[1]}"),
    ]


def test_a_run_that_publishes_meanwhile(tmp_path: Path) -> None:
    made = filled(tmp_path)
    made.write("a.jsonl", 1)
    n_told = 0

    def publish_once(_: int) -> None:
        nonlocal n_told
        n_told += 1
        if n_told == 1:
            made.run()

    proof = prove(made.out, told=publish_once)
    assert (proof.manifest, proof.problems) == (2, ())


def test_runs_that_never_stop_publishing(tmp_path: Path) -> None:
    made = filled(tmp_path)

    def publish(n_read: int) -> None:
        if n_read == 1:
            made.write("a.jsonl", made.n_runs)
            made.run()

    with pytest.raises(BusyError) as caught:
        prove(made.out, told=publish)
    assert caught.value.message == "runs keep changing the sink"
    assert made.n_runs == 4


def test_sizes_alone(plain: Sample, tmp_path: Path) -> None:
    shutil.copytree(plain.out, tmp_path / "out")
    part = sorted((tmp_path / "out").glob("part-*"))[0]
    part.write_bytes(bytes(reversed(part.read_bytes())))
    assert prove(tmp_path / "out", reads_parts=False).is_whole
    assert not prove(tmp_path / "out").is_whole


def test_findings_are_capped_and_counted(plain: Sample, tmp_path: Path) -> None:
    shutil.copytree(plain.out, tmp_path / "out")
    for number in range(1100):
        os.link(tmp_path / "out/_SUCCESS", tmp_path / f"out/part-{number}.jsonl")
    proof = prove(tmp_path / "out")
    assert (len(proof.extras), proof.n_extras) == (1000, 1100)
