"""What `fedsec repro` measures of gradient inversion by optimisation: Deep Leakage from Gradients on LeNet."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedsec.data.images import CIFAR10
from fedsec.federation.training import LocalTraining
from fedsec.models.convolutional import LeNetSigmoid
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.view import Seen, View
from fedsec.randomness import derive_seed, generator
from fedsec.statistics.intervals import clopper_pearson

from .dlg import DeepLeakage

RATE = 0.1
"""Learning rate of the one local step whose update is attacked; the gradient does not depend on it."""


def deep_leakage(*, targets: int = 8, evaluations: int = 2000) -> Mapping[str, tuple[float, float, float]]:
    """DLG with one starting point per image: how often it converges, and whether the label comes out with the image.

    Args:
        targets: CIFAR-10 test images of the exact subset, each with an update and a network of its own.
        evaluations: double backward passes per image.
    """
    dataset = CIFAR10().load(None)
    chosen = dataset.test.take(range(targets))
    attack = DeepLeakage(targets=targets, restarts=1, evaluations=evaluations, halving=())
    errors, hits = [], 0
    for row in range(targets):
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(derive_seed("deep leakage", row))
            model = FlatModel.of(LeNetSigmoid().build(dataset.info), task="classification", name="lenet-sigmoid")
        state, one = model.vector(), chosen.take([row])
        module = model.instance(state)
        loss = model.loss(module(one.x), one.y).mean()
        slopes = torch.autograd.grad(loss, list(module.parameters()))
        update = -RATE * torch.cat([slope.reshape(-1) for slope in slopes])
        view = View(
            "server",
            (
                Seen(round=0, topic=Topic.BROADCAST, sender="server", values=state, weight=1.0, about=()),
                Seen(
                    round=0, topic=Topic.UPLOAD, sender="client:0", values=update, weight=1.0, about=(("examples", 1),)
                ),
            ),
        )
        facts = PublicFacts(
            info=dataset.info,
            model=model,
            initial=state,
            stack=(),
            population=1,
            cohort=1,
            rounds=1,
            rule="mean",
            knowledge=attack.knows(),
            _local=LocalTraining(batch_size=None, learning_rate=RATE),
        )
        found = attack.run(view, facts, generator=generator("deep leakage", "attack", row))
        errors.append(float((found.inputs - one.x).square().mean()))
        hits += int(found.labels is not None and bool(found.labels[0] == one.y[0]))

    def share(count: int) -> tuple[float, float, float]:
        low, high = clopper_pearson(count, targets)
        return count / targets, low, high

    return {
        "dlg | mse < 1e-3": share(sum(error < 1e-3 for error in errors)),
        "dlg | mse < 1e-2": share(sum(error < 1e-2 for error in errors)),
        "dlg | labels": share(hits),
    }
