"""The table of Modal's names against the installed modal."""

import inspect

import modal
import pytest

from modalbatch.gpu import canonical_request
from modalbatch.spec import modal_table as table
from modalbatch.spec.rule import check_gpu


def test_every_keyword_of_app_cls_is_offered_or_refused():
    there = set(inspect.signature(modal.App.cls).parameters) - {"self"}
    assert set(table.CLS_KEYWORDS) | set(table.CLS_REFUSED) == there
    assert not set(table.CLS_KEYWORDS) & set(table.CLS_REFUSED)


def test_every_method_of_image_is_a_layer_or_refused():
    inherited = {"client", "logs", "object_id"}
    there = {name for name in dir(modal.Image) if not name.startswith("_")} - inherited
    assert set(table.IMAGE_METHODS) | set(table.IMAGE_REFUSED) == there
    assert not set(table.IMAGE_METHODS) & set(table.IMAGE_REFUSED)


@pytest.mark.parametrize("method", sorted(table.IMAGE_METHODS))
def test_a_layer_has_the_methods_own_parameters(method):
    positional, keywords = [], []
    for parameter in inspect.signature(getattr(modal.Image, method)).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional.append(f"*{parameter.name}")
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            positional.append(parameter.name)
        else:
            keywords.append(parameter.name)
    known_positional, known_keywords = table.IMAGE_METHODS[method]
    # A method may take some of its keywords by position, too; a layer gives them by name.
    assert known_positional == tuple(positional[: len(known_positional)])
    assert set(known_keywords) == set(keywords) | set(positional[len(known_positional) :])


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("h100", "H100"),
        ("H100:1", "H100"),
        ("a100-80gb:8", "A100-80GB:8"),
        ("H100!", "H100!"),
        ("b200+:2", "B200+:2"),
        ("a10g:2", "A10:2"),
        ("ANY", "any"),
        ("rtx-pro-6000", "RTX-PRO-6000"),
    ],
)
def test_a_gpu_has_one_spelling(written, canonical):
    assert not list(check_gpu(written))
    assert canonical_request(written) == canonical
