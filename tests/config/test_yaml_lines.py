from __future__ import annotations

import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.config.paths import covers, parsed, written
from fedsec.config.yaml_lines import MAX_BYTES, Document, read_yaml


def only(data: bytes):
    document = read_yaml(data, "a.yaml")
    assert len(document.problems) == 1, document.problems
    assert document.problems[0].file == "a.yaml"
    return document.problems[0]


def test_values_and_lines() -> None:
    document = read_yaml(b"a: 1\nb:\n  - x\n  - {c: 2.5,\n     d: null}\n'e f': |\n  text\n")
    assert document.problems == []
    assert document.value == {"a": 1, "b": ["x", {"c": 2.5, "d": None}], "e f": "text\n"}
    assert {path: document.lines[path] for path in ("a", "b", "b[0]", "b[1].c", "b[1].d", "e f")} == {
        "a": 1, "b": 2, "b[0]": 3, "b[1].c": 4, "b[1].d": 5, "e f": 6
    }  # fmt: skip
    assert document.line("b[1].c.nothing") == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1_000", "1_000"), ("yes", "yes"), ("no", "no"), ("on", "on"), ("true", True),
        ("2020-01-01", "2020-01-01"), ("1:30", "1:30"), ("0x10", 16), ("0o10", 8), ("010", 10), ("~", None), ("", None),
        (".5", 0.5), ("-.inf", -math.inf), ("+3", 3), ("'3'", "3"), ("!!str 3", "3"), ("client:3", "client:3"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    document = read_yaml(f"a: {text}".encode())
    assert document.problems == []
    assert document.value == {"a": value}
    assert type(document.value["a"]) is type(value)


def test_duplicate_keys_are_refused_with_both_lines() -> None:
    problem = only(b"a: 1\nb:\n  c: 1\n  c: 2\n")
    assert (problem.line, problem.path) == (4, "b.c")
    assert problem.expected == "this key stands already in line 3"


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [ls]",
        "!!python/name:os.system",
        "!own x",
        "!!binary aGk=",
        "!!set {x}",
        "!!int x",
    ],
)
def test_tags_are_refused(text: str) -> None:
    assert only(f"a: {text}\n".encode()).line == 1


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"a:\n\t- b\n", 2, "spaces, not tabs"),
        (b"a: b: c\n", 1, "quotes"),
        (b"a: [1\n", 2, "not YAML"),
        (b"a: \xff\n", 1, "UTF-8"),
        (b"a: \x01\n", 1, "U+0001"),
        (b"a: 1\n---\nb: 2\n", 2, "another document"),
        (b"a: &a [*a]\n", 1, "inside what it names"),
        (b"a: *b\n", 1, "not YAML"),
        (b"? [1, 2]\n: 3\n", 1, "a key is text"),
        (b"x: &x {a: 1}\ny:\n  <<: *x\n", 3, "merge keys"),
        (b"a: " + b"[" * 3000, None, "nested too deeply"),
        (b"a: " + b"9" * 5000, 1, "cannot be read as int"),
        (b'a: "\\UFFFFFFFF"', None, "not YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(data: bytes, line: int | None, words: str) -> None:
    problem = only(data)
    assert words in str(problem)
    assert problem.line == line


def test_aliases_that_blow_up_are_refused() -> None:
    text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    assert "more than" in only(text.encode()).expected


def test_aliases_may_be_used() -> None:
    assert read_yaml(b"a: &x {b: 1}\nc: *x\n").value == {"a": {"b": 1}, "c": {"b": 1}}


def test_too_long_a_file_is_refused() -> None:
    assert "at most" in only(b"#" * (MAX_BYTES + 1)).expected


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_no_bytes_raise(data: bytes) -> None:
    assert isinstance(read_yaml(data), Document)


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@`,?~ \n\t\\<=0179.eExU\x07\x85é", max_size=60))
@settings(deadline=None, max_examples=500)
def test_no_yaml_like_text_raises(text: str) -> None:
    document = read_yaml(text.encode())
    try:
        list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError):
        assert document.problems


words = st.text(st.characters(exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
@settings(deadline=None, max_examples=200)
def test_json_reads_as_json(value: object) -> None:
    document = read_yaml(json.dumps(value).encode())
    assert document.problems == []
    assert document.value == value


def test_half_a_surrogate_pair_is_refused() -> None:
    assert "half a character" in only(b'a: "\\uD800"').expected


keys = st.text(alphabet="abc-_1", min_size=1, max_size=4).filter(lambda key: not key.isdigit())


@given(keys, st.lists(keys | st.integers(0, 99), max_size=4))
@settings(deadline=None, max_examples=100)
def test_paths_are_read_as_written(first: str, rest: list[str | int]) -> None:
    path = (first, *rest)
    assert parsed(written(path)) == path
    assert parsed(".".join(str(key) for key in path)) == path
    assert all(covers(written(path[:length]), written(path)) for length in range(1, len(path) + 1))


@pytest.mark.parametrize("text", ["", ".a", "a.", "a..b", "a[", "a]", "a[x]", "[1]", "a[1", "a[-1]"])
def test_what_is_no_path(text: str) -> None:
    assert parsed(text) is None


def test_covers_is_not_a_prefix_of_text() -> None:
    assert not covers("attacks[1]", "attacks[10]")
    assert not covers("a", "ab")
