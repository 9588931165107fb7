"""What may be shown of a spec's text. Runs on: laptop.

Owns recognising values that look like secrets and making text safe for a terminal. Refuses to echo either.
"""

from __future__ import annotations

import re

#: Kind of secret → its form. Linear patterns only: the text is the user's.
_SECRETS = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "a Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/"),
    "a Modal token": re.compile(r"\ba[ks]-[A-Za-z0-9]{22}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"),
    "a password in a URL": re.compile(r"\bhttps?://[^\s/@]{1,200}@|://[^\s/@:]{1,100}:[^\s/@]{1,200}@"),
}
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:passw(?:or)?d|passwd|pwd|token|secret|api[_-]?key|secret[_-]?access[_-]?key|private[_-]?key)$"
)
_SECRET_VALUE = re.compile(r"[A-Za-z0-9+/=_.~-]{12,}")
#: A line of YAML that gives such a name a value.
_SECRET_LINE = re.compile(
    r"(?i)(?:passw(?:or)?d|passwd|pwd|token|[_-]secret|api[_-]?key|access[_-]?key(?:[_-]id)?|private[_-]?key)"
    r"[\"']?\s{0,20}[:=]\s{0,20}[^\s,}\]]"
)
#: Control characters, and those that reorder or hide the text around them.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_MAX_SHOWN = 60


def secret_kind(text: str) -> str | None:
    """What kind of secret the text holds, in words, or None."""
    return next((kind for kind, form in _SECRETS.items() if form.search(text)), None)


def holds_private_key(text: str) -> bool:
    """Whether the text holds the head of a private key anywhere; linear in its length."""
    return bool(_SECRETS["a private key"].search(text))


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name usually holds a secret."""
    return bool(_SECRET_NAME.search(name))


def is_secret_pair(name: str, value: str) -> bool:
    """Whether `name: value` looks like a secret written out; `PAD_TOKEN: <pad>` does not."""
    return is_secret_name(name) and bool(_SECRET_VALUE.fullmatch(value))


def hides_line(line: str) -> bool:
    """Whether a source line must not be shown."""
    return bool(secret_kind(line) or _SECRET_LINE.search(line))


def unsafe_character(text: str) -> str | None:
    """The first control or invisible character as `U+202E`, or None."""
    found = _UNSAFE.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def printable(text: str) -> str:
    """The text on one line, same length, without characters that a terminal obeys."""
    return _UNSAFE.sub("\ufffd", text.replace("\t", " ").replace("\n", " ").replace("\r", " "))


def shown(value: object) -> str:
    """A value for a message, in backticks, cut; never a secret."""
    text = value if isinstance(value, str) else _plain(value)
    if secret_kind(text):
        return "this value"
    text = printable(text)
    return f"`{text[:_MAX_SHOWN]}…`" if len(text) > _MAX_SHOWN else f"`{text}`"


def _plain(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
