from __future__ import annotations

import ast
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.source_text import SourceClass, Unreadable, evaluate, path_of, resolve

HERE = "fedsec.errors"

literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


def read(text: str):
    return evaluate(ast.parse(text, mode="eval").body, HERE)


@given(literals)
@settings(deadline=None, max_examples=60)
def test_literals_read_as_python_reads_them(value) -> None:
    # repr of an infinity is a name, which a module would have to define
    text = repr(value)
    if "inf" in text:
        return
    assert read(text) == ast.literal_eval(text)


@pytest.mark.parametrize("text", ["8 / 255", "2 ** 10 - 1", "(1, 2)[0]", "f'{1}a'", "1 if 0 else 2", "float('inf')"])
def test_expressions_give_what_python_gives(text: str) -> None:
    assert read(text) == eval(text)


@pytest.mark.parametrize("text", ["[x for x in (1, 2)]", "open('x')", "unknown", "1 / 0", "lambda: 1", "int('a')"])
def test_other_forms_are_said_to_be_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read(text)


def test_light_modules_are_taken_as_they_are() -> None:
    assert resolve("math", "pi") == math.pi
    with pytest.raises(Unreadable, match="not read from its source"):
        resolve("torch", "Tensor")


def test_ancestry_is_the_order_of_python() -> None:
    found = resolve("fedsec.defenses.clipping.plugins", "ClipNorm")
    assert isinstance(found, SourceClass)
    from fedsec.defenses.clipping.plugins import ClipNorm

    expected = [f"{base.__module__}:{base.__qualname__}" for base in ClipNorm.__mro__[:-1]]
    assert [owner.key for owner in found.ancestry()] == expected


def test_missing_module_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="no module"):
        path_of("fedsec.attacks.nothing.here")
    assert path_of("fedsec.attacks.inversion").name == "__init__.py"


def test_enumerations_are_read_as_their_values() -> None:
    from fedsec.declaration import _source_annotation, for_pydantic
    from fedsec.parameters import expected_text
    from fedsec.protocol.stage import EnforcedBy

    source = _source_annotation(resolve("fedsec.protocol.stage", "EnforcedBy"))
    assert (
        expected_text(source) == expected_text(for_pydantic(EnforcedBy)) == "expected one of client | server | format"
    )
