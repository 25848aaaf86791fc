"""FoolsGold's experiment: its batched training against a loop, and every figure of its file on a smaller data set."""

from __future__ import annotations

import pytest
import torch

from fedsec.data.embedded import Digits
from fedsec.data.examples import Examples
from fedsec.defenses.aggregation import foolsgold_reproduction
from fedsec.defenses.aggregation.foolsgold_reproduction import RULES, TASKS, Task, foolsgold_mnist
from fedsec.defenses.aggregation.one_digit_clients import Cell, Experiment, accuracy, attack_rate
from fedsec.randomness import generator
from fedsec.reproductions.catalogue import load


def pool(n=300, classes=4, features=6, seed=0):
    draws = generator(seed, "pool")
    y = torch.arange(n) % classes
    return Examples(torch.rand(n, features, generator=draws) + 0.5 * torch.nn.functional.one_hot(y, features), y)


def looped(experiment, cell, sybils, examples, *, seed):
    """One federation, one client after another, with autograd."""
    x = examples.x * experiment.scale
    who = [(c, c) for c in range(experiment.classes)] + list(sybils[: cell.sybils])
    draws = [generator(seed, "one digit", client) for client in range(len(who))]
    model = torch.rand(experiment.classes, x.shape[1], generator=generator(seed, "initial")) / 100
    sums = torch.zeros(len(who), model.numel())
    for _ in range(experiment.rounds):
        updates = []
        for (held, label), source in zip(who, draws, strict=True):
            rows = x[examples.y == held]
            batch = rows[torch.randperm(len(rows), generator=source)[: experiment.batch]]
            w = model.clone().requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(batch @ w.T, torch.full((len(batch),), label))
            (gradient,) = torch.autograd.grad(loss + experiment.decay / 2 * w.square().sum(), w)
            step = -experiment.rate * gradient.flatten()
            updates.append(step / max(1.0, float(step.norm()) / experiment.bound))
        updates = torch.stack(updates)
        sums += updates
        model = model + cell.rule(updates, sums if cell.remembers else None).view_as(model)
    return model


@pytest.mark.parametrize("bound", [1.0, 0.02])
def test_batched_federations_are_those_of_a_loop(bound):
    sybils = [(1, 2), (1, 2), (0, 3), (1, 2)]
    cells = [
        Cell(name=f"{name} | {k}", rule=RULES[name], sybils=k, remembers=name == "foolsgold")
        for name in ("mean", "median", "foolsgold")
        for k in (0, 2, 4)
    ]
    experiment = Experiment(rounds=12, batch=7, rate=0.05, classes=4, bound=bound)
    found = experiment.train(cells, sybils, pool(), seed=3)
    for cell in cells:
        expected = looped(experiment, cell, sybils, pool(), seed=3)
        torch.testing.assert_close(found[cell.name], expected, rtol=1e-4, atol=1e-5)


def test_too_few_sybils_are_refused():
    with pytest.raises(ValueError, match="wants 3 Sybils, and there are 2"):
        Experiment(rounds=1, classes=4).train(
            [Cell(name="a", rule=RULES["mean"], sybils=3)], [(1, 2)] * 2, pool(), seed=0
        )


def test_rates_count_what_they_say():
    test = Examples(torch.eye(4)[[0, 1, 1, 2]], torch.tensor([0, 1, 1, 3]))
    model = torch.eye(4)[[0, 2, 1, 3]]
    assert attack_rate(model, test, (1, 2)) == 1.0
    assert attack_rate(model, test, (1, 1)) == 0.0
    assert accuracy(model, test) == 0.25


def test_the_digits_show_what_mnist_shows():
    """Two Sybils beat the mean and not FoolsGold; a median of clients with one digit each learns little."""
    data = Digits().load(None)
    wanted = {"mean": (0, 9), "multi-krum": (9,), "median": (0,), "foolsgold": (0, 2, 9)}
    cells = [
        Cell(name=f"{name} | {k}", rule=RULES[name], sybils=k, remembers=name == "foolsgold")
        for name, counts in wanted.items()
        for k in counts
    ]
    models = Experiment(rounds=150).train(cells, [(1, 7)] * 9, data.train, seed=0)
    rate = {name: attack_rate(model, data.test, (1, 7)) for name, model in models.items()}
    right = {name: accuracy(model, data.test) for name, model in models.items()}
    assert rate["mean | 0"] < 0.05
    assert rate["mean | 9"] > 0.9
    assert rate["multi-krum | 9"] > 0.9
    for k in (2, 9):
        assert rate[f"foolsgold | {k}"] < 0.05
        assert right[f"foolsgold | {k}"] > 0.85
    assert right["foolsgold | 0"] > right["median | 0"] + 0.1


def test_every_figure_of_the_file_is_measured(monkeypatch):
    monkeypatch.setattr(foolsgold_reproduction.os, "cpu_count", lambda: 1)
    tasks = {(task.part): Task(part=task.part, seed=0, rounds=2, batch=5, sybils=task.sybils) for task in TASKS}
    two = Task(part="modules", seed=1, rounds=2, batch=5, sybils=5)
    found = foolsgold_mnist((*tasks.values(), two), dataset={"name": "digits"})
    for figure in load("foolsgold-mnist").recipe.figures:
        assert figure.read in found
    middle, low, high = found["modules | no memory | accuracy"]
    assert low <= middle <= high
