"""Which engine is used, from options, variables and Modal's own settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from modalbatch.engines.choose import Choice, check_reachable, choose_engine
from modalbatch.errors import UnavailableError, UsageError

PROFILES = """\
[work]
token_id = "ak-1"
token_secret = "as-1"
environment = "dev"
active = true

[other]
server_url = "http://127.0.0.1:1"

[default]
token_id = "ak-2"
token_secret = "as-2"
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Variables of a person with three profiles."""
    (tmp_path / "modal.toml").write_text(PROFILES)
    return {"MODAL_CONFIG_PATH": str(tmp_path / "modal.toml")}


@pytest.mark.parametrize(
    ("given", "variables", "kind", "workspace", "environment"),
    [
        (None, {}, "modal", "work", "dev"),
        (None, {"MODAL_ENVIRONMENT": "prod"}, "modal", "work", "prod"),
        (None, {"MODAL_PROFILE": "default"}, "modal", "default", ""),
        (None, {"MODAL_PROFILE": "other"}, "local", "", ""),
        (None, {"MODAL_PROFILE": "other", "MODAL_TOKEN_ID": "a", "MODAL_TOKEN_SECRET": "b"}, "modal", "", ""),
        (None, {"MODALBATCH_ENGINE": "local"}, "local", "", ""),
        ("modal", {"MODALBATCH_ENGINE": "local"}, "modal", "work", "dev"),
        ("local", {}, "local", "", ""),
    ],
)
def test_choice(environ, given, variables, kind, workspace, environment):
    found = choose_engine(given, environ | variables)
    assert (found.kind, found.workspace, found.environment) == (kind, workspace, environment)


def test_without_settings_it_is_local(tmp_path):
    assert choose_engine(None, {"MODAL_CONFIG_PATH": str(tmp_path / "none")}) == Choice(kind="local")


@pytest.mark.parametrize(
    ("given", "variables", "message"),
    [
        ("cloud", {}, "`--engine` is `cloud`, expected `local` or `modal`"),
        (None, {"MODALBATCH_ENGINE": "aws"}, "`MODALBATCH_ENGINE` is `aws`, expected `local` or `modal`"),
        ("modal", {"MODAL_PROFILE": "other"}, "Modal's client has no token here"),
    ],
)
def test_refused(environ, given, variables, message):
    with pytest.raises(UsageError) as caught:
        choose_engine(given, environ | variables)
    assert caught.value.message == message


def test_settings_that_cannot_be_read(tmp_path):
    path = tmp_path / "modal.toml"
    path.write_text("[work\n")
    with pytest.raises(UsageError, match="cannot be read") as caught:
        choose_engine(None, {"MODAL_CONFIG_PATH": str(path)})
    assert caught.value.hint == "`modal setup` writes it anew"


def test_nobody_listens():
    with pytest.raises(UnavailableError) as caught:
        check_reachable(Choice(kind="modal", server_url="http://127.0.0.1:1"), {})
    assert caught.value.message == "Modal cannot be reached at 127.0.0.1: Connection refused"


def test_behind_a_proxy_nobody_is_asked():
    check_reachable(Choice(kind="modal", server_url="http://127.0.0.1:1"), {"https_proxy": "http://proxy:3128"})
