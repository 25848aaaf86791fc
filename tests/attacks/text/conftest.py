"""A federation of one round on made-up sentences: what the server sees, what it knows and what only the judge holds."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.setup import whole
from fedsec.federation.training import LocalTraining
from fedsec.judges.base import Truth
from fedsec.judges.text import TextJudge
from fedsec.models.flat import FlatModel
from fedsec.models.transformers import TransformerDecoder, TransformerEncoder
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import TokenReconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.view import Seen, View
from fedsec.randomness import generator

WORDS, LENGTH = 300, 12

SENTENCES = DatasetInfo(
    name="sentences",
    summary="Made-up sentences",
    task="classification",
    input_shape=(LENGTH,),
    classes=("no", "yes"),
    bounds=None,
    modality="text",
    public=True,
    vocabulary=WORDS,
)
CHARACTERS = replace(SENTENCES, task="next-token", input_shape=(8,), classes=(), vocabulary=40)


def sentences(info: DatasetInfo, count: int, seed: int) -> Examples:
    """Words by a law of Zipf, lengths from 3 to the longest; next tokens where the task asks for them."""
    draw = generator(seed, "sentences")
    length = info.input_shape[0]
    law = 1 / torch.arange(1, info.vocabulary, dtype=torch.float64)
    if info.task == "next-token":
        x = 1 + torch.multinomial(law, count * (length + 1), True, generator=draw).view(count, length + 1)
        return Examples(x[:, :-1].contiguous(), x[:, 1:].contiguous())
    x = 1 + torch.multinomial(law, count * length, True, generator=draw).view(count, length)
    sizes = torch.randint(3, length + 1, (count, 1), generator=draw)
    y = torch.randint(0, 2, (count,), generator=draw)
    return Examples(x * (torch.arange(length) < sizes), y)


def build(info: DatasetInfo = SENTENCES, *, width: int = 64, layers: int = 2, seed: int = 0) -> FlatModel:
    source = (TransformerDecoder if info.task == "next-token" else TransformerEncoder)(width=width, layers=layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FlatModel.of(source.build(info), task=info.task, name=source.name)


@dataclass(frozen=True)
class Scene:
    """One round."""

    info: DatasetInfo
    model: FlatModel
    local: LocalTraining
    held: dict[str, Examples]
    updates: dict[str, Tensor]

    def view(self, updates: dict[str, Tensor] | None = None) -> View:
        seen = [Seen(round=0, topic=Topic.BROADCAST, sender="server", values=self.model.vector(), weight=1.0, about=())]
        seen += [
            Seen(
                round=0,
                topic=Topic.UPLOAD,
                sender=who,
                values=values,
                weight=float(len(self.held[who])),
                about=(("examples", len(self.held[who])),),
            )
            for who, values in (updates or self.updates).items()
        ]
        return View("server", tuple(seen))

    def facts(self, attack, stack: tuple[str, ...] = ()) -> PublicFacts:
        return PublicFacts(
            info=self.info,
            model=self.model,
            initial=self.model.vector(),
            stack=stack,
            population=len(self.held),
            cohort=len(self.held),
            rounds=1,
            rule="mean",
            knowledge=attack.knows(),
            _local=self.local,
        )

    def truth(self) -> Truth:
        public = sentences(self.info, 200, 999)
        return Truth(
            info=self.info,
            model=self.model,
            released=self.model.vector(),
            initial=self.model.vector(),
            behind={(0, who): held for who, held in self.held.items()},
            test=public,
            decoys=public,
            candidates=None,
            members=None,
            property_name="",
            property_share={},
            generator=generator(0, "judge"),
        )

    def run(self, attack, *, updates=None, stack: tuple[str, ...] = ()) -> TokenReconstructions:
        return attack.run(self.view(updates), self.facts(attack, stack), generator=generator(0, "attack"))

    def measured(self, evidence) -> dict[str, tuple[float, float]]:
        """Value and floor by name."""
        judged = TextJudge().measure(evidence, self.truth()).measurements
        return {m.name: (float(m.units.mean()), float(m.floor_units.mean())) for m in judged}


def scene(
    info: DatasetInfo = SENTENCES,
    *,
    sizes: tuple[int, ...] = (1, 1, 1),
    width: int = 64,
    layers: int = 2,
    seed: int = 0,
    **local,
) -> Scene:
    training = LocalTraining(**({"batch_size": None, "learning_rate": 0.5} | local))
    model = build(info, width=width, layers=layers, seed=seed)
    held = {f"client:{i}": sentences(info, size, seed * 100 + i) for i, size in enumerate(sizes)}
    with CohortTrainer(model, training) as trainer:
        updates = trainer.train(model.vector(), [whole(h) for h in held.values()], list(range(len(sizes))))
    return Scene(info, model, training, held, dict(zip(held, updates, strict=True)))


@pytest.fixture
def make():
    return scene


def tokens_of(examples: Examples) -> set[int]:
    return {t for t in examples.x.flatten().tolist() if t}


@pytest.fixture
def characters():
    """A dataset for next tokens."""
    return CHARACTERS


@pytest.fixture
def words():
    return tokens_of
