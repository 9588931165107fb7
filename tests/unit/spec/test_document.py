"""Reading a spec: places, limits, files that are none."""

import os
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalbatch.errors import SpecErrors
from modalbatch.spec import Mark, load_spec
from modalbatch.spec.document import MAX_BYTES


def load(tmp_path, text):
    path = tmp_path / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_spec(path)


def refusal(tmp_path, text):
    with pytest.raises(SpecErrors) as caught:
        load(tmp_path, text)
    return caught.value.render().replace(f"{tmp_path}/", "")


def test_every_node_has_its_place(tmp_path):
    spec = load(tmp_path, "a: 1\nb:\n  - x\n  - {c: 'two words'}\n")
    assert spec.tree == {"a": 1, "b": ["x", {"c": "two words"}]}
    assert spec.keys == {
        ("a",): Mark(1, 1, 1, "a"),
        ("b",): Mark(2, 1, 1, "b"),
        ("b", 1, "c"): Mark(4, 6, 1, "c"),
    }
    assert spec.values[("b", 0)] == Mark(3, 5, 1, "x")
    assert spec.values[("b", 1, "c")] == Mark(4, 9, 11, "two words")
    assert str(spec.where(("b", 1, "c"))).endswith("spec.yaml:4:9")
    assert str(spec.where(("b", 1, "c"), key=True)).endswith("spec.yaml:4:6")
    # Not written: the nearest key above.
    assert str(spec.where(("b", 1, "absent"))).endswith("spec.yaml:4:5")


def test_an_alias_stands_where_it_is_used(tmp_path):
    spec = load(tmp_path, "a: &x {b: 1}\nc: *x\n")
    assert spec.tree == {"a": {"b": 1}, "c": {"b": 1}}
    assert spec.values[("c",)].line == 2
    assert spec.values[("c", "b")].line == 1


def test_the_tree_knows_its_folder_and_cannot_be_changed(tmp_path):
    spec = load(tmp_path, "a: 1\n")
    assert spec.dir == tmp_path.resolve()
    with pytest.raises(TypeError):
        spec.tree["a"] = 2


def test_a_byte_order_mark_and_crlf_are_no_content(tmp_path):
    spec = load(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert spec.tree == {"a": 1, "b": "x"}
    assert spec.values[("a",)].column == 4


def test_mistakes_that_leave_a_tree_are_kept_for_later(tmp_path):
    spec = load(tmp_path, "a: 1\na: 2\nb: !x y\n")
    assert spec.tree == {"a": 1, "b": "y"}
    assert [error.message for error in spec.problems] == [
        "the tag `!x` is not supported",
        "duplicate key `a`, first on line 1",
    ]


def test_more_than_a_mebibyte_is_refused(tmp_path):
    assert refusal(tmp_path, "#" * (MAX_BYTES + 1)) == (
        "spec.yaml:1:1: a spec has at most 1 MiB\nhint: put data into files and name them in `source`"
    )


@pytest.mark.parametrize("text", ["[" * 500_000, "- " * 500_000, "{a: " * 200_000, "? " * 500_000])
def test_depth_is_refused_before_it_costs_anything(tmp_path, text):
    assert "nested deeper than 40 levels" in refusal(tmp_path, text)


def test_aliases_may_not_nest_deeper_either(tmp_path):
    lines = ["k0: &a0 [x]"] + [f"k{n}: &a{n} [[[[[[[[[*a{n - 1}]]]]]]]]]" for n in range(1, 6)]
    assert "nested deeper than 40 levels" in refusal(tmp_path, "\n".join(lines))


def test_a_folder_a_pipe_and_nothing_are_no_specs(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "job.yaml").write_text("")
    said = {}
    for name in (".", "pipe", "jop.yaml", "zzz"):
        with pytest.raises(SpecErrors) as caught:
            load_spec(tmp_path / name)
        said[name] = caught.value.render().replace(str(tmp_path), "DIR")
    assert said == {
        ".": "DIR:1:1: this is a folder, not a spec\nhint: name the YAML file in it",
        "pipe": "DIR/pipe:1:1: this is not a regular file\nhint: a spec is a YAML file",
        "jop.yaml": "DIR/jop.yaml:1:1: there is no such file\nhint: did you mean `DIR/job.yaml`?",
        "zzz": "DIR/zzz:1:1: there is no such file\nhint: `modalbatch init` writes a working spec",
    }


def test_a_spec_of_a_mebibyte_of_brackets_needs_little_memory(tmp_path):
    # libyaml's own composer overflows the C stack here: a crash of the process, not an exception.
    (tmp_path / "spec.yaml").write_text("[" * (MAX_BYTES - 1))
    code = "import sys; from modalbatch.cli import main; sys.exit(main(['validate', 'spec.yaml']))"
    limit = 512 << 20
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert (done.returncode, done.stdout) == (2, b"")


@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_a_spec_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    try:
        load_spec(path)
    except SpecErrors as refused:
        assert refused.render().startswith(f"{path}:")


@given(text=st.text(alphabet="ab:-?[]{},&*!|>'\"#%@`\\ \n\t<~1.\u202e\x07", max_size=60))
def test_any_punctuation_is_a_spec_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text)
    try:
        load_spec(path)
    except SpecErrors as refused:
        assert refused.render().startswith(f"{path}:")
