from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedsec.config import load_config, load_configs
from fedsec.config.yaml_lines import split_documents
from fedsec.errors import ConfigurationError

ONE = """\
version: 1
name: {name}
federation:
  dataset: {{name: digits, train: 400, holdout: 200, auxiliary: 200}}
  model: mlp
  clients: {clients}
  rounds: 2
attacks: [label-flip]
"""


def written(folder: Path, *parts: str) -> Path:
    path = folder / "audits.yaml"
    path.write_text("---\n".join(parts))
    return path


def test_each_document_is_an_audit(tmp_path: Path) -> None:
    path = written(tmp_path, ONE.format(name="first", clients=10), ONE.format(name="second", clients=5))
    first, second = load_configs(path, ["federation.rounds=7"])
    assert (first.name, second.name) == ("first", "second")
    assert (first.federation.clients, second.federation.clients) == (10, 5)
    assert first.federation.rounds == second.federation.rounds == 7


def test_errors_of_all_documents_are_reported_with_lines_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, ONE.format(name="first", clients=0), ONE.format(name="second", clients=-3))
    with pytest.raises(ConfigurationError) as refused:
        load_configs(path)
    assert [problem.line for problem in refused.value.problems] == [6, 15]


def test_names_must_differ(tmp_path: Path) -> None:
    path = written(tmp_path, ONE.format(name="same", clients=4), ONE.format(name="same", clients=4))
    with pytest.raises(ConfigurationError) as refused:
        load_configs(path)
    (problem,) = refused.value.problems
    assert problem.line == 11
    assert "'same'" in str(problem)


def test_where_one_is_expected_several_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ONE.format(name="first", clients=4), ONE.format(name="second", clients=4))
    with pytest.raises(ConfigurationError, match="one audit"):
        load_config(path)


def test_empty_documents_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, "# a head\n", ONE.format(name="only", clients=4), "# a tail\n")
    assert [config.name for config in load_configs(path)] == ["only"]


values = st.recursive(
    st.text(max_size=6) | st.integers() | st.sampled_from(["---", "a\n---\nb", "# no", "--- x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), values, min_size=1, max_size=2), min_size=1, max_size=3))
def test_splits_like_a_yaml_parser(documents: list[object]) -> None:
    text = yaml.safe_dump_all(documents, explicit_start=True)
    parts = split_documents(text.encode())
    assert [yaml.safe_load(part) for part in parts] == documents
