from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.config import config_from, load_config
from fedsec.config.load import precheck
from fedsec.errors import ConfigurationError, Problem

MINIMAL = """\
version: 1
federation:
  dataset: {name: digits, train: 400, holdout: 200, auxiliary: 200}
  model: mlp
  clients: 10
  rounds: 3
attacks:
  - dlg
  - {name: dlg, position: "client:0"}
  - label-flip
"""


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str) -> Path:
        path = tmp_path / "audit.yaml"
        path.write_text(text)
        return path

    return written


def problems(path: Path, *overrides: str) -> list[Problem]:
    with pytest.raises(ConfigurationError) as caught:
        load_config(path, overrides)
    return list(caught.value.problems)


def only(path: Path, *overrides: str) -> Problem:
    found = problems(path, *overrides)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


def test_minimal_configuration_gets_every_default(write) -> None:
    config = load_config(write(MINIMAL))
    federation = config.federation
    assert (federation.clients_per_round, federation.sampling, federation.precision) == (10, "fixed", "float32")
    assert federation.partition.name == "shuffle"
    assert federation.algorithm.name == "fedavg"
    assert federation.local.batch_size == 32
    assert config.seeds == (0, 1, 2)
    assert [attack.label for attack in config.attacks] == ["dlg", "dlg@client:0", "label-flip"]
    assert [attack.position for attack in config.attacks] == ["server", "client:0", ""]
    assert [attack.line for attack in config.attacks] == [8, 9, 10]
    assert [stack.label for stack in config.stacks] == ["none"]
    assert config.report.originals == "show", "digits are public"
    assert config.folder == config.folder.resolve()


def test_resolved_configuration_loads_to_an_equal_one(write) -> None:
    text = MINIMAL + (
        "defenses:\n  - clip\n  - [clip, clip]\n  - {label: at-server, stack: [{name: clip, enforced_by: server}]}\n"
        "  - {name: clip, c: 2, label: two}\n"
        "gates:\n  - {stack: clip, attack: dlg, below: high}\n  - {metric: accuracy, above: 0.5}\n"
        "  - {attack: dlg, metric: identified, below: 0.05}\nseeds: 2\ndevice: cpu\n"
    )
    config = load_config(write(text))
    assert [stack.label for stack in config.stacks] == ["none", "clip", "clip+clip", "at-server", "two"]
    resolved = config.resolved()
    assert config_from(json.loads(json.dumps(resolved, allow_nan=False)), folder=config.folder) == config
    assert load_config(write(json.dumps(resolved))) == config
    assert load_config(write(yaml.safe_dump(resolved))).resolved() == resolved


def test_six_mistakes_are_six_errors_with_lines_and_suggestions(write) -> None:
    text = """\
version: 1
sedes: [0, 1]
federation:
  dataset: {name: digits, train: 400, auxiliary: 200}
  model: mlp
  clients: 10
  clients_per_round: 20
  rounds: many
attacks:
  - dgl
  - {name: idlg, restart: 3}
defenses:
  - {name: clip, enforced_by: sever}
"""
    found = problems(write(text))
    assert [(problem.line, problem.path) for problem in found] == [
        (2, "sedes"),
        (7, "federation.clients_per_round"),
        (8, "federation.rounds"),
        (10, "attacks[0]"),
        (11, "attacks[1].restart"),
        (13, "defenses[0].enforced_by"),
    ]
    said = [str(problem) for problem in found]
    for text, words in zip(said, ["'seeds'", "at most 10", '"many"', "'dlg'", "'restarts'", "'server'"], strict=True):
        assert words in text
        assert str(write("")) in text


CASES = {
    "clients: 10": {
        "clients: 0": ("federation.clients", "integer >= 1"),
        "clients: true": ("federation.clients", "integer >= 1"),
        'clients: "10"': ("federation.clients", "integer >= 1"),
        "clients: 10\n  client_per_round: 2": ("federation.client_per_round", "clients_per_round"),
        "clients: 10\n  sampling: poison": ("federation.sampling", "Did you mean 'poisson'"),
        "clients: 10\n  precision: float16": ("federation.precision", "float64"),
        "clients: 10\n  algorithm: fedsdg": ("federation.algorithm.name", "Did you mean 'fedsgd'"),
        "clients: 10\n  algorithm: {name: fedavg, proximal: 0.1}": ("federation.algorithm.proximal", "fedprox"),
        "clients: 10\n  algorithm: fedprox": ("federation.algorithm", "proximal: 0.01"),
        "clients: 10\n  algorithm: {server: {optimizer: adamm}}": ("federation.algorithm.server.optimizer", "'adam'"),
        "clients: 10\n  algorithm: fedsgd\n  local: {epochs: 2}": ("federation.local.epochs", "epochs: 1"),
        "clients: 10\n  algorithm: fedsgd\n  local: {batch_size: 8}": ("federation.local.batch_size", "size: null"),
        "clients: 10\n  local: {learning_rate: .inf}": ("federation.local.learning_rate", "number > 0"),
        "clients: 10\n  availability: 0": ("federation.availability", "> 0"),
        "clients: 10\n  partition: {name: dirichlet, alpha: 0}": ("federation.partition.alpha", "> 0"),
        "clients: 10\n  partition: {alpha: 1}": ("federation.partition", "the name of the partition"),
    },
    "model: mlp": {
        "model: mpl": ("federation.model", "'mlp'"),
        "model: {build: mymodel}": ("federation.model.build", "module:function"),
        "model: {build: 'a:b', name: mlp}": ("federation.model.name", "cannot stand together"),
        "model: 3": ("federation.model", "expected"),
        "model: {name: [1]}": ("federation.model.name", "expected the name"),
    },
    "train: 400": {
        "train: 0": ("federation.dataset.train", "integer >= 1 or null"),
        "train: many": ("federation.dataset.train", "integer >= 1 or null"),
        "trian: 4": ("federation.dataset.trian", "unknown parameter"),
        "holdout: 300, train: 4": ("federation.dataset.holdout", "already"),
    },
    "version: 1": {
        "version: 2": ("version", "1"),
        "version: 1\nseeds: [1, 1]": ("seeds", "one observation"),
        "version: 1\nseeds: [-1]": ("seeds[0]", ">= 0"),
        "version: 1\nseeds: []": ("seeds", "expected"),
        "version: 1\ndevice: gpu": ("device", "like"),
        "version: 1\nreport: {originals: blur}": ("report.originals", "redact | show"),
        "version: 1\nversion: 1": ("version", "already in line 1"),
    },
    "- label-flip": {
        "- label-flip\n  - label-flip": ("attacks[3]", "a `label` of its own"),
        "- {name: label-flip, position: server}": ("attacks[2].position", "takes the place of clients"),
        "- {name: label-flip, label: dlg}": ("attacks[2]", "has the label 'dlg' too"),
        '- {name: label-flip, label: "*"}': ("attacks[2].label", "not *"),
        "- {name: idlg, position: 'client:10'}": ("attacks[2].position", "from 0 to 9"),
        "- {name: idlg, position: sever}": ("attacks[2].position", "'server'"),
        "- {name: idlg, position: server+server}": ("attacks[2].position", "twice"),
        "- {name: idlg, position: server+outsider}": ("attacks[2].position", "adds nothing"),
        "- {name: idlg, position: 3}": ("attacks[2].position", "expected text"),
        "- {name: sybil, carries: dlg}": ("attacks[2].carries", "no Adversary 'dlg'"),
        "- {name: sybil, carries: {name: label-flip, fraction: 3}}": ("attacks[2].carries.fraction", "number"),
        "- 3": ("attacks[2]", "expected"),
        "- {targets: 3}": ("attacks[2]", "name of the attack"),
        "- label-flip\ndefenses: clip": ("defenses", "list"),
        "- label-flip\ndefenses: [none, none]": ("defenses[1]", "empty stack already"),
        "- label-flip\ndefenses: [[clip, none]]": ("defenses[0][1]", "`none` is the empty stack"),
        "- label-flip\ndefenses: [[{name: clip, label: a}]]": ("defenses[0][0].label", "unknown parameter"),
        "- label-flip\ndefenses: [{stack: [clip], lable: a}]": ("defenses[0].lable", "'label'"),
        "- label-flip\ndefenses: [{stack: clip}]": ("defenses[0].stack", "expected a list"),
        "- label-flip\ndefenses: [clip, {stack: [clip], label: clip}]": ("defenses[1]", "label 'clip' too"),
        "- label-flip\ngates: [{stack: clipp, below: low}]": ("gates[0].stack", "Labels: none"),
        "- label-flip\ngates: [{attack: dgl, below: low}]": ("gates[0].attack", "'dlg'"),
        "- label-flip\ngates: [{below: hihg}]": ("gates[0].below", "'high'"),
        "- label-flip\ngates: [{below: none}]": ("gates[0].below", "low | medium"),
        "- label-flip\ngates: [{below: 0.5}]": ("gates[0]", "below: high"),
        "- label-flip\ngates: [{attack: dlg}]": ("gates[0]", "one bound"),
        "- label-flip\ngates: [{metric: auc, below: 0.6}]": ("gates[0].metric", "no attack of this gate"),
        "- label-flip\ngates: [{metric: identifed, below: 0.1}]": ("gates[0].metric", "'identified'"),
        "- label-flip\ngates: [{metric: identified, below: high}]": ("gates[0].below", "is a number"),
        "- label-flip\ngates: [{metric: accuracy, above: 0.1, below: 0.2}]": ("gates[0]", "one bound"),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "path", "words"),
    [(old, new, *expected) for old, cases in CASES.items() for new, expected in cases.items()],
    ids=lambda value: str(value)[:50].replace("\n", " "),
)
def test_each_mistake_is_one_problem_at_its_place(write, old: str, new: str, path: str, words: str) -> None:
    assert old in MINIMAL
    problem = only(write(MINIMAL.replace(old, new, 1)))
    assert problem.path == path
    assert words in str(problem)
    assert problem.line is not None


def test_missing_sections_are_named(write) -> None:
    assert {p.path for p in problems(write("version: 1\nfederation: {}\n"))} == {
        "attacks", "federation.dataset", "federation.model", "federation.clients", "federation.rounds"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is empty"), ("- a", "expected a mapping"), ("3", "expected a mapping"), ("a: [", "not YAML")],
)
def test_what_is_no_configuration(write, text: str, words: str) -> None:
    assert words in str(only(write(text)))


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    assert "fedsec init" in only(tmp_path / "no.yaml").hint


def test_knowledge_that_nothing_is_set_aside_for(write) -> None:
    text = MINIMAL.replace("holdout: 200, ", "").replace("- label-flip", "- loss-threshold")
    problem = only(write(text))
    assert (problem.path, problem.line) == ("attacks[2]", 10)
    assert "holdout" in problem.hint


def test_what_a_plugin_refuses_itself_has_a_line(write) -> None:
    text = MINIMAL.replace("- label-flip", "- {name: targeted-label-flip, source: 1, target: 1}")
    problem = only(write(text))
    assert problem.path.startswith("attacks[2]")
    assert problem.line == 10


def test_users_own_data_and_model(write) -> None:
    text = MINIMAL.replace("name: digits", 'load: "my_data:load", classes: 3').replace("mlp", '{build: "my.model:Net"}')
    config = load_config(write(text))
    assert (config.federation.dataset.load, config.federation.dataset.parameters) == ("my_data:load", {"classes": 3})
    assert config.federation.dataset.train == 400
    assert config.federation.model.build == "my.model:Net"
    assert config.report.originals == "redact"
    assert config_from(config.resolved()) == config


def test_fedsgd_and_fedprox_reach_local_training(write) -> None:
    path = write(MINIMAL)
    assert load_config(path, ["federation.algorithm=fedsgd"]).federation.local.batch_size is None
    prox = load_config(path, ["federation.algorithm={name: fedprox, proximal: 0.1}"])
    assert prox.federation.local.proximal == 0.1
    assert config_from(prox.resolved()) == prox
    cycle = load_config(path, ["federation.local.schedule=one-cycle", "federation.rounds=7"])
    assert (cycle.federation.local.schedule, cycle.federation.local.rounds) == ("one-cycle", 7)
    assert config_from(cycle.resolved()) == cycle


def test_overrides_are_values_of_yaml(write) -> None:
    config = load_config(
        write(MINIMAL),
        [
            "federation.rounds=7",
            "federation.local.learning_rate=1e-3",
            "attacks[0].targets=2",
            "attacks.2.fraction=0.4",
            "federation.model.hidden=[8, 8]",
            "seeds=[5]",
            "report.title=a=b",
            "defenses=[clip]",
            "defenses[0].c=3",
        ],
    )
    assert config.federation.rounds == 7
    assert config.federation.local.learning_rate == 1e-3
    assert config.attacks[0].plugin.parameters()["targets"] == 2
    assert config.attacks[2].plugin.parameters()["fraction"] == 0.4
    assert config.federation.model.parameters["hidden"] == [8, 8]
    assert config.seeds == (5,)
    assert config.report.title == "a=b"
    assert config.stacks[1].defenses[0].parameters()["c"] == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("federation.rouns=3", "federation.rouns: unknown key. Did you mean 'rounds'?"),
        ("attacks[9].targets=3", "--set attacks[9].targets: no such path"),
        ("attacks.x=3", "no such path"),
        ("version.x=3", "no such path"),
        ("nothing", "expected path=value"),
        ("=3", "expected path=value"),
        ("federation..x=3", "expected path=value"),
        ("federation.rounds=[", "not YAML"),
        ("federation.rounds=!!python/name:os.system", "tag"),
        ("federation.rounds=many", 'federation.rounds: expected integer >= 1, found "many"'),
        ("attacks[0].targts=3", "attacks[0].targts: unknown parameter. Did you mean 'targets'?"),
    ],
)
def test_override_problems_have_no_line(write, override: str, words: str) -> None:
    problem = only(write(MINIMAL), override)
    assert words in str(problem)
    assert (problem.file, problem.line) == ("", None)


def test_configuration_is_not_changed_by_overrides(write) -> None:
    raw = {"version": 1, "federation": {"dataset": "digits", "model": "mlp", "clients": 2, "rounds": 1}, "attacks": []}
    before = json.dumps(raw)
    assert config_from(raw, overrides=["federation.rounds=2"]).federation.rounds == 2
    assert json.dumps(raw) == before


scalars = (
    st.none() | st.booleans() | st.integers(-2, 40) | st.floats(-1, 2) | st.sampled_from(["dlg", "clip", "none", "*"])
)
keys = st.sampled_from(["name", "label", "stack", "position", "below", "metric", "c"])
scraps = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
places = st.sampled_from(
    [
        "version",
        "federation",
        "attacks",
        "defenses",
        "gates",
        "seeds",
        "report",
        "attacks[0]",
        "attacks[1].position",
        "defenses[0]",
        "defenses[0].stack",
        "gates[0]",
        "gates[0].below",
        "federation.dataset",
        "federation.model",
        "federation.partition",
        "federation.algorithm",
        "federation.local",
        "federation.clients",
        "federation.dataset.train",
    ]
)


@given(st.lists(st.tuples(places, scraps), min_size=1, max_size=3))
@settings(deadline=None, max_examples=300)
def test_any_damage_is_problems_never_another_error(damage: list[tuple[str, object]]) -> None:
    raw = yaml.safe_load(MINIMAL) | {"defenses": ["clip"], "gates": [{"below": "high"}]}
    try:
        config = config_from(raw, overrides=[f"{place}={json.dumps(value)}" for place, value in damage])
    except ConfigurationError as error:
        said = [str(problem) for problem in error.problems]
    else:
        said = [config.source]
        assert config_from(config.resolved()) == config
    assert said


def test_checks_before_importing_plugins_need_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(MINIMAL)
    code = (
        "import sys; from fedsec.config.load import precheck; precheck(sys.argv[1]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    with pytest.raises(ConfigurationError, match="unknown key"):
        precheck(path, ["nothing=1"])
