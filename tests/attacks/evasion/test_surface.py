"""All evasion attacks can be called alike."""

import inspect

import pytest

from fedsec.attacks import evasion

NAMES = "fgsm fgm bim pgd apgd fab square auto_attack deepfool carlini_wagner hop_skip_jump"


@pytest.mark.parametrize("name", NAMES.split())
def test_every_attack_takes_the_common_keywords(name):
    parameters = inspect.signature(getattr(evasion, name)).parameters
    assert list(parameters)[:3] == ["model", "x", "y"]
    keywords = {key: value for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert {"eps", "norm", "bounds", "targets", "generator", "passes"} <= set(keywords)
    assert keywords["targets"].default is None
    assert keywords["generator"].default is None
    assert keywords["bounds"].default == (0.0, 1.0)
    assert len(keywords) == len(parameters) - 3
