"""Rows of a table: what must not change does not, categories stay whole, and every attack works with two classes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion.gradient_ascent import Passes, pgd
from fedsec.attacks.evasion.hop_skip_jump import hop_skip_jump
from fedsec.attacks.evasion.nearest import CarliniWagner, DeepFool, FastAdaptiveBoundary, HopSkipJump
from fedsec.attacks.evasion.plugins import BasicIterative, FastGradient, FastGradientSign, ProjectedGradientDescent
from fedsec.attacks.evasion.tables import Table, alter_rows
from fedsec.attacks.evasion.trusted import AutoAttack, AutoPGD, SquareSearch
from fedsec.data.examples import DatasetInfo, Examples, Feature
from fedsec.data.tabular import Adult
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen, View

from .networks import data_folder, drawn, net_of

FEATURES = (
    Feature(name="age", attribute="age-band"),
    Feature(name="hours", high=0.8),
    Feature(name="sex", values=("f", "m"), attribute="sex"),
    Feature(name="job", values=("a", "b", "c", "d")),
    Feature(name="gain"),
    Feature(name="town", values=("x", "y", "z")),
)
INFO = DatasetInfo(
    name="people",
    summary="",
    task="classification",
    input_shape=(12,),
    classes=("low", "high"),
    bounds=(0.0, 1.0),
    modality="tabular",
    features=FEATURES,
)
AGE, HOURS, SEX, JOB, GAIN, TOWN = 0, 1, slice(2, 4), slice(4, 8), 8, slice(9, 12)

EVERY = (
    FastGradientSign(eps=0.1),
    FastGradient(eps=0.1),
    BasicIterative(eps=0.1),
    ProjectedGradientDescent(eps=0.1, steps=5, restarts=2),
    ProjectedGradientDescent(eps=0.1, steps=20, norm="l1"),
    AutoPGD(eps=0.1, steps=10, loss="dlr"),
    SquareSearch(eps=0.1, queries=50),
    SquareSearch(eps=0.1, queries=50, norm="l2"),
    AutoAttack(eps=0.1, steps=10, queries=50),
    DeepFool(eps=0.1),
    CarliniWagner(eps=0.1, searches=3, steps=30),
    FastAdaptiveBoundary(eps=0.1, steps=10),
    FastAdaptiveBoundary(eps=0.1, steps=10, norm="l1"),
    HopSkipJump(eps=0.1, steps=4, batch=20),
    HopSkipJump(eps=0.1, steps=4, batch=20, norm="linf"),
)
names = pytest.mark.parametrize("attack", EVERY, ids=lambda attack: f"{attack.name}-{getattr(attack, 'norm', 'l2')}")


def rows(count, seed=0):
    """Rows of the table: numbers, then a random category in every group."""
    x = torch.zeros(count, 12)
    x[:, [AGE, HOURS, GAIN]] = drawn(count, 3, seed=seed) * 0.8
    for number, group in enumerate((SEX, JOB, TOWN)):
        size = group.stop - group.start
        x[:, group] = torch.eye(size)[(drawn(count, seed=seed + 7 + number) * size).long()]
    return x


def run(attack, net, x, y, info=INFO):
    model = FlatModel.of(net, task="classification", name="net")
    facts = PublicFacts(
        info=info,
        model=model,
        initial=model.vector(),
        stack=(),
        population=1,
        cohort=1,
        rounds=1,
        rule="mean",
        knowledge=attack.threat.knowledge,
        _test_inputs=Examples(x, y),
    )
    seen = Seen(round=0, topic=Topic.RELEASE, sender="server", values=model.vector(), weight=1.0, about=())
    return attack.run(View("outsider", (seen,)), facts, generator=torch.Generator().manual_seed(0))


def assert_allowed(found, x, swaps, eps, norm):
    assert torch.equal(found[:, AGE], x[:, AGE])
    assert torch.equal(found[:, SEX], x[:, SEX])
    changed = torch.zeros(len(x), dtype=torch.long)
    for group in (JOB, TOWN):
        block = found[:, group]
        assert ((block == 0) | (block == 1)).all()
        assert (block.sum(1) == 1).all()
        changed += (block != x[:, group]).any(1)
    assert changed.max() <= swaps
    assert (found[:, HOURS] <= torch.maximum(torch.tensor(0.8), x[:, HOURS])).all()
    assert ((found >= 0) & (found <= 1)).all()
    delta = (found - x)[:, [HOURS, GAIN]]
    assert delta.norm(dim=1, p={"linf": torch.inf, "l2": 2, "l1": 1}[norm]).max() <= eps + 1e-5


@names
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), swaps=st.integers(0, 2))
def test_what_must_not_change_does_not_and_categories_stay_whole(attack, seed, swaps):
    net = net_of(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2), seed=seed)
    x = rows(25, seed=seed)
    y = net(x).argmax(-1)
    attack = type(attack)(**{**vars(attack), "swaps": swaps, "examples": 25})
    found = run(attack, net, x, y).inputs
    assert_allowed(found, x, swaps, attack.eps, getattr(attack, "norm", "l2"))


@names
def test_a_linear_model_of_two_classes_falls_where_its_margin_says(attack):
    """Score of the second class: hours + 2 gain - 1 + what the job adds; exact reach of numbers and of one swap."""
    weight = torch.zeros(12)
    weight[HOURS], weight[GAIN], weight[4:8] = 1.0, 2.0, torch.tensor([0.0, 0.1, -0.2, 0.3])
    weight[AGE], weight[3] = 9.0, 9.0
    net = nn.Sequential(nn.Linear(12, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.stack([-weight / 2, weight / 2]))
        net[0].bias.copy_(torch.tensor([0.6, -0.6]))
    x = rows(60)
    x[:, AGE], x[:, SEX] = 0.0, torch.tensor([1.0, 0.0])
    x[:, HOURS] = 0.1 + 0.6 * drawn(60, seed=20)
    x[:, GAIN] = 0.1 + 0.6 * drawn(60, seed=21)
    score = x @ weight - 1.2
    y = (score > 0).long()
    reach = {"linf": 3.0, "l2": 5.0**0.5, "l1": 2.0}[getattr(attack, "norm", "l2")] * attack.eps
    own = x[:, JOB] @ weight[JOB]
    best = torch.where(y == 1, own - weight[JOB].min(), weight[JOB].max() - own)
    for swaps, gained in ((0, 0.0), (1, best)):
        chosen = type(attack)(**{**vars(attack), "swaps": swaps, "examples": 60})
        found = run(chosen, net, x, y).inputs
        fooled = net(found).argmax(-1) != y
        assert_allowed(found, x, swaps, attack.eps, getattr(attack, "norm", "l2"))
        possible = score.abs() < reach + gained
        assert not (fooled & ~possible).any()
        sure = score.abs() < 0.9 * (reach if not swaps else gained)
        assert sure.any()
        assert (~possible).any()
        if attack.name not in ("hop-skip-jump", "square"):
            assert fooled[sure].all()
        else:
            assert fooled[sure].float().mean() > 0.5


def test_a_column_is_pinned_by_name_and_a_misspelt_one_is_refused():
    net = net_of(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2))
    x = rows(30)
    y = net(x).argmax(-1)
    found = run(ProjectedGradientDescent(eps=0.5, immutable=("hours", "job", "town")), net, x, y).inputs
    for part in (HOURS, JOB, TOWN):
        assert torch.equal(found[:, part], x[:, part])
    assert not torch.equal(found[:, AGE], x[:, AGE])
    with pytest.raises(NotApplicable, match="no column 'hour'"):
        run(FastGradientSign(immutable=("hour",)), net, x, y)


def test_a_table_without_named_columns_is_numbers_alone():
    info = DatasetInfo(
        name="own", summary="", task="classification", input_shape=(4,), classes=("a", "b"), bounds=(-2.0, 2.0),
        modality="tabular",
    )  # fmt: skip
    net = net_of(nn.Linear(4, 2))
    x = drawn(30, 4) * 4 - 2
    y = net(x).argmax(-1)
    found = run(ProjectedGradientDescent(eps=3.0), net, x, y, info=info).inputs
    assert (found.abs() <= 2).all()
    assert (net(found).argmax(-1) != y).any()


def test_swaps_are_counted_and_a_row_that_falls_without_one_keeps_its_categories():
    net = net_of(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2))
    x = rows(40)
    y = net(x).argmax(-1)
    table, passes = Table.of(INFO), Passes()

    def still(model, points, classes, bounds):
        return points.clone()

    found = alter_rows(net, x, y, search=still, table=table, passes=passes)
    # once to look at what the search gave, then every single swap, then both ways to go on
    assert passes.forwards == 40 + 40 * 7 + 2 * 40

    def search(model, points, classes, bounds):
        return pgd(model, points, classes, eps=0.3, bounds=bounds)

    alone = alter_rows(net, x, y, search=search, table=table, swaps=0)
    both = alter_rows(net, x, y, search=search, table=table, swaps=1)
    fell = net(alone).argmax(-1) != y
    assert torch.equal(both[fell], alone[fell])
    assert (net(both).argmax(-1) != y).sum() > fell.sum()
    assert (net(found).argmax(-1) != y).any()


def test_decisions_take_one_swap_that_is_misread_or_none():
    net = net_of(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2))
    x = rows(40)
    y = net(x).argmax(-1)

    def search(model, points, classes, bounds):
        generator = torch.Generator().manual_seed(0)
        return hop_skip_jump(model, points, classes, eps=0.02, steps=2, batch=10, bounds=bounds, generator=generator)

    found = alter_rows(net, x, y, search=search, table=Table.of(INFO), swaps=2, decisions=True)
    swapped = (found[:, JOB] != x[:, JOB]).any(1) | (found[:, TOWN] != x[:, TOWN]).any(1)
    assert swapped.any()
    assert (net(found).argmax(-1) != y)[swapped].all()


@pytest.mark.data
def test_adult_never_has_its_sex_race_or_age_touched():
    folder = data_folder()
    if not (folder / "adult").is_dir():
        pytest.skip("Adult is not under FEDSEC_DATA")
    data = Adult().load(folder)
    x, y = data.test.x[:150], data.test.y[:150]
    net = net_of(nn.Linear(x.shape[1], 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(60):
        some = slice(200 * step, 200 * step + 200)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data.train.x[some]), data.train.y[some]).backward()
        optimizer.step()
    inputs = Adult.inputs()
    kept = [i for i, name in enumerate(inputs) if name == "age" or name.split("=")[0] in ("sex", "race")]
    assert len(kept) == 8
    clean = (net(x).argmax(-1) != y).float().mean()
    for attack in (ProjectedGradientDescent(swaps=2, examples=150), SquareSearch(queries=100, examples=150)):
        found = run(attack, net, x, y, info=data.info).inputs
        assert torch.equal(found[:, kept], x[:, kept])
        at = 0
        for feature in data.info.features:
            block = found[:, at : at + feature.width]
            at += feature.width
            assert not feature.values or ((block.sum(1) == 1) & ((block == 0) | (block == 1)).all(1)).all()
        assert (net(found).argmax(-1) != y).float().mean() > clean + 0.1
