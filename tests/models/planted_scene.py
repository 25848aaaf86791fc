"""Malicious servers on a small federation of digits: plant, train, read, judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsec.audit.challenge import public_facts, truth, with_counts
from fedsec.audit.planted import Planting, plant
from fedsec.data.embedded import Digits
from fedsec.data.partitions import Shuffle
from fedsec.data.source import ClientIndex
from fedsec.data.split import split
from fedsec.federation.population import Participation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.federation.training import LocalTraining
from fedsec.judges.base import Judgement, Truth
from fedsec.judges.reconstruction import ReconstructionJudge
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import MaliciousServer
from fedsec.protocol.stage import Defense
from fedsec.protocol.view import View, project
from fedsec.randomness import derive_seed, generator, numpy_generator

ONE_STEP = LocalTraining(epochs=1, batch_size=None, learning_rate=0.1)


def mlp(width: int = 64, *, head_bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10, bias=head_bias))


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


def softmax() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def federation(
    make: Callable[[], nn.Module] = mlp,
    *,
    clients: int = 8,
    each: int = 16,
    local: LocalTraining = ONE_STEP,
    seed: int = 0,
    rows: Callable[[Tensor], list[np.ndarray]] | None = None,
    **changes: Any,
) -> FederationSetup:
    """``rows`` chooses what each client holds from the labels of the pool; by default ``each`` random examples."""
    data = Digits().load(None)
    size = clients * each if rows is None else 597
    parts = split(data, train=size, holdout=200, auxiliary=500, test=200, generator=numpy_generator(seed, "split"))
    if rows is None:
        index = Shuffle().assign(parts.clients, clients, generator=numpy_generator(seed, "partition"))
    else:
        held = [np.asarray(one, dtype=np.int64) for one in rows(parts.clients.y)]
        index = ClientIndex(np.concatenate(held), np.cumsum([0, *(len(one) for one in held)]))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(seed, "initial"))
        model = FlatModel.of(make(), task="classification", name="net")
    setup = FederationSetup(
        info=data.info,
        fingerprint=data.fingerprint,
        split=parts,
        index=index,
        partition=Shuffle(),
        model=model,
        initial=model.vector(),
        participation=Participation(clients_per_round=len(index)),
        local=local,
        weighting="examples",
        server=ServerStep(),
        rounds=2,
        evaluate_every=1,
        seed=seed,
    )
    return dataclasses.replace(setup, **changes)


@dataclass(frozen=True)
class Scene:
    planting: Planting
    view: View
    facts: PublicFacts
    truth: Truth
    evidence: Reconstructions

    def judgement(self) -> Judgement:
        return ReconstructionJudge().measure(self.evidence, self.truth)

    def metrics(self) -> dict[str, float]:
        return {m.name: float(m.units.mean()) for m in self.judgement().measurements}

    def errors(self) -> dict[tuple[int, str], Tensor]:
        """For each true example of a source, the largest error of the reconstruction nearest to it."""
        found: dict[tuple[int, str], Tensor] = {}
        for source in dict.fromkeys(self.evidence.sources):
            rows = [row for row, of in enumerate(self.evidence.sources) if of == source]
            true = self.truth.behind[source].x.flatten(1)
            read = self.evidence.inputs[rows].flatten(1)
            found[source] = (read.unsqueeze(0) - true.unsqueeze(1)).abs().amax(-1).amin(1)
        return found

    def exact(self, tolerance: float = 1e-3) -> float:
        """Share of the examples behind the uploads that were read exactly."""
        return float((torch.cat(list(self.errors().values())) < tolerance).double().mean())


def attacked(
    setup: FederationSetup,
    attack: MaliciousServer,
    *,
    stack: tuple[Defense, ...] = (),
    position: str = "server",
    change: Callable[[View], View] = lambda view: view,
) -> Scene:
    planting = plant(setup, stack, attack, position=position, transcript=())
    view, _ = project(planting.events, position, [Topic.UPLOAD, Topic.BROADCAST])
    held = truth(planting.setup, stack, attack, events=planting.events, released=planting.setup.initial, challenge=None)
    held = planting.told(held)
    facts = public_facts(planting.setup, stack, attack)
    view = change(with_counts(view, held.behind))
    evidence = planting.owing(attack.run(view, facts, generator=generator(0, "attack")))
    assert isinstance(evidence, Reconstructions)
    return Scene(planting, view, facts, held, evidence)


def rotated(view: View) -> View:
    """The placebo: every upload has the values of the next client's."""
    uploads = view.of(Topic.UPLOAD)
    moved = [
        dataclasses.replace(one, values=other.values)
        for one, other in zip(uploads, uploads[1:] + uploads[:1], strict=True)
    ]
    return View(view.position, (*view.of(Topic.BROADCAST), *moved))


def noised(deviation: float | None = None) -> Callable[[View], View]:
    """Uploads with white noise added, or replaced by noise of their own length."""

    def change(view: View) -> View:
        draw = generator(4, "noise")
        moved = []
        for one in view.of(Topic.UPLOAD):
            noise = torch.randn(one.values.shape, generator=draw)
            values = noise * one.values.norm() / noise.norm() if deviation is None else one.values + deviation * noise
            moved.append(dataclasses.replace(one, values=values))
        return View(view.position, (*view.of(Topic.BROADCAST), *moved))

    return change
