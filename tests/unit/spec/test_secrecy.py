"""What of a spec may be shown."""

import pytest

from modalbatch.spec import secrecy


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("AKIAIOSFODNN7EXAMPLE", "an AWS access key"),
        ("key=sk-proj-abcdefghijklmnopqrstuvwxyz", "an API key"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "a GitHub token"),
        ("hf_abcdefghijklmnopqrstuvwxyz0123456789", "a Hugging Face token"),
        ("xoxb-123456789012-abc", "a Slack token"),
        ("ak-abcdefghijklmnopqrstuv", "a Modal token"),
        ("-----BEGIN PRIVATE KEY-----", "a private key"),
        ("https://user:password@example.com/x", "a password in a URL"),
    ],
)
def test_secrets_are_known_and_never_shown(text, kind):
    assert secrecy.secret_kind(text) == kind
    assert secrecy.shown(text) == "this value"
    assert secrecy.hides_line(f"  value: {text}")


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn",
        "git+https://github.com/a/b@main",
        "ssh://git@github.com/a/b",
        "s3://lake/docs@2/x.jsonl",
        "task-runner-with-a-long-name-in-it",
        "mailto:someone@example.com",
    ],
)
def test_other_values_are_no_secrets(text):
    assert secrecy.secret_kind(text) is None


@pytest.mark.parametrize(
    ("name", "value", "is_secret"),
    [
        ("OPENAI_API_KEY", "abcdefghijkl1234", True),
        ("DB_PASSWORD", "correct-horse-battery", True),
        ("PAD_TOKEN", "<pad>", False),
        ("MAX_TOKENS", "100000000000", False),
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("HF_TOKEN", "", False),
    ],
)
def test_names_of_secrets_need_a_value_that_could_be_one(name, value, is_secret):
    assert secrecy.is_secret_pair(name, value) is is_secret


@pytest.mark.parametrize(
    "line", ["password: hunter2", "  API_TOKEN: x", "{secret_access_key: 'wJalr'}", "db_secret = x"]
)
def test_lines_that_give_a_secret_a_value_are_hidden(line):
    assert secrecy.hides_line(line)


@pytest.mark.parametrize("line", ["secrets: [openai]", "keep: [token_count]", "name: tokens", "tokens:"])
def test_other_lines_are_shown(line):
    assert not secrecy.hides_line(line)


def test_a_terminal_is_told_nothing():
    assert secrecy.printable("a\x1b[31mb\u202ec\td\ne") == "a\ufffd[31mb\ufffdc d e"
    assert secrecy.unsafe_character("a\u202e") == "U+202E"
    assert secrecy.unsafe_character("a\tb\nü 漢") is None
    assert secrecy.shown("x" * 100) == f"`{'x' * 60}…`"
