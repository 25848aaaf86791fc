"""A federation of one round, made by hand: what the server sees, what it knows and what only the judge holds."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.federation.training import LocalTraining
from fedsec.judges.base import Judgement, Truth
from fedsec.judges.reconstruction import ReconstructionJudge
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.view import Seen, View
from fedsec.randomness import generator
from fedsec.threat import ThreatModel

DIGITS = DatasetInfo(
    name="digits",
    summary="Digits of 8 x 8 pixels",
    task="classification",
    input_shape=(1, 8, 8),
    classes=tuple("0123456789"),
    bounds=(0.0, 1.0),
    modality="image",
    public=True,
)


class Standardise(nn.Module):
    """Normalisation inside the model, as the built-in models have it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.3) / 0.4


def mlp(activation: type[nn.Module] = nn.ReLU, *, bias: bool = True, head_bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=bias), activation(), nn.Linear(64, 10, bias=head_bias))


def sigmoid_net() -> nn.Module:
    """A small LeNet with the wide U(-0.5, 0.5) weights of Zhu et al. 2019."""
    module = nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(192, 10),
    )
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return module


def build(make: Callable[[], nn.Module], *, seed: int = 0, task: str = "classification") -> FlatModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FlatModel.of(make(), task=task, name="net")


def local_update(model: FlatModel, state: Tensor, batches: list[Examples], rate: float) -> Tensor:
    """What plain SGD over some batches does to the parameters, by ordinary autograd."""
    module = model.instance(state)
    for batch in batches:
        loss = model.loss(module(batch.x), batch.y).mean()
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter -= rate * gradient
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]) - state[: model.layout.trainable]


@dataclass(frozen=True)
class Scene:
    view: View
    facts: PublicFacts
    truth: Truth

    def judge(self, evidence: Reconstructions) -> dict[str, float]:
        judgement = self.judgement(evidence)
        return {m.name: float(m.units.mean()) for m in judgement.measurements}

    def judgement(self, evidence: Reconstructions) -> Judgement:
        return ReconstructionJudge().measure(evidence, self.truth)


@pytest.fixture(scope="session")
def digits() -> Examples:
    data = load_digits()
    return Examples(
        torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target, dtype=torch.int64)
    )


@pytest.fixture
def scene(digits: Examples) -> Callable[..., Scene]:
    """A round in which ``clients`` clients with ``per_client`` examples each upload what training gave."""

    def make(
        threat: ThreatModel,
        model: FlatModel,
        *,
        clients: int = 8,
        per_client: int = 1,
        local: LocalTraining | None = None,
        change: Callable[[Tensor], Tensor] = lambda update: update,
        stack: tuple[str, ...] = (),
        topic: Topic = Topic.UPLOAD,
        warm: int = 0,
    ) -> Scene:
        local = local or LocalTraining(batch_size=None, learning_rate=0.1)
        draw = generator(5, "shards")
        state = model.vector()
        for _ in range(warm):
            batch = digits.take(torch.randint(900, (32,), generator=draw))
            state = state + local_update(model, state, [batch], 0.1)
        shards = [digits.take(1200 + torch.randperm(597, generator=draw)[:per_client]) for _ in range(clients)]
        updates = []
        for shard in shards:
            size = local.batch_size or len(shard)
            batches = [
                shard.take(range(start, min(start + size, len(shard))))
                for _ in range(local.epochs)
                for start in range(0, len(shard), size)
            ]
            updates.append(change(local_update(model, state, batches, local.learning_rate)))
        broadcast = Seen(round=0, topic=Topic.BROADCAST, sender="server", values=state, weight=1.0, about=())
        about = (("examples", per_client),)
        if topic == Topic.UPLOAD:
            seen = [
                Seen(round=0, topic=topic, sender=f"client:{c}", values=update, weight=per_client, about=about)
                for c, update in enumerate(updates)
            ]
            behind = {(0, f"client:{c}"): shard for c, shard in enumerate(shards)}
        else:
            total = per_client * clients
            mean = torch.stack(updates).mean(0)
            about = (("examples", total),)
            seen = [Seen(round=0, topic=topic, sender="server", values=mean, weight=total, about=about)]
            behind = {(0, "server"): Examples(torch.cat([s.x for s in shards]), torch.cat([s.y for s in shards]))}
        facts = PublicFacts(
            info=DIGITS,
            model=model,
            initial=state,
            stack=stack,
            population=clients,
            cohort=clients,
            rounds=1,
            rule="mean",
            knowledge=threat.knowledge,
            _local=local,
        )
        truth = Truth(
            info=DIGITS,
            model=model,
            released=state,
            initial=state,
            behind=behind,
            test=digits.take(range(900, 1000)),
            decoys=digits.take(range(900)),
            candidates=None,
            members=None,
            property_name="",
            property_share={},
            generator=generator(7, "judge"),
        )
        return Scene(View("server", (broadcast, *seen)), facts, truth)

    return make


@pytest.fixture(scope="session")
def networks() -> dict[str, Callable[..., FlatModel]]:
    return {
        "mlp": lambda **kw: build(lambda: mlp(**kw)),
        "sigmoid-mlp": lambda **kw: build(lambda: mlp(nn.Sigmoid, **kw)),
        "standardised": lambda **kw: build(lambda: nn.Sequential(Standardise(), *mlp(**kw))),
        "sigmoid-net": lambda: build(sigmoid_net),
        "softmax": lambda **kw: build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, **kw))),
    }


@pytest.fixture
def noise() -> Callable[[Tensor], Tensor]:
    """Puts white noise of the same length in the place of an update."""
    draw = generator(11, "noise")

    def replace(update: Tensor) -> Tensor:
        drawn = torch.randn(update.shape, generator=draw)
        return drawn * update.norm() / drawn.norm()

    return replace
