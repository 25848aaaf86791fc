import pytest
import torch

from fedsec.attacks.property.released import ReleasedModelPropertyInference
from fedsec.protocol.events import Topic
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen, View


def released(vector):
    return View(
        "outsider",
        (Seen(round=2, topic=Topic.RELEASE, sender="server", values=vector, weight=1.0, about=()),),
    )


def guess(world, attack, vectors, **changes):
    known = {}

    def federate(sets, draw):
        if draw not in known:
            known[draw] = world.federate(sets, draw)
        return known[draw]

    facts = world.facts(_federate=federate, **changes)
    return [attack.run(released(v), facts, generator=torch.Generator().manual_seed(0)) for v in vectors]


def test_the_property_of_the_whole_training_set_is_read(world):
    generator = torch.Generator().manual_seed(3)
    targets = [world.shard(n % 2, generator, size=200, purity=0.85) for n in range(12)]
    attack = ReleasedModelPropertyInference(shadows=64, purity=0.85, assumed_examples=20)
    found = guess(world, attack, world.federate(targets, 999))
    right = [(float(one.scores[0]) > 0) == (n % 2 == 1) for n, one in enumerate(found)]
    assert sum(right) >= 10
    assert found[0].sources == ((2, "public"),)


def test_a_model_that_saw_nothing_says_nothing(world):
    attack = ReleasedModelPropertyInference(shadows=16, assumed_examples=20)
    generator = torch.Generator().manual_seed(0)
    noise = [
        world.initial + torch.randn(world.initial.shape, generator=generator) * world.initial.std() for _ in range(20)
    ]
    guesses = [float(one.scores[0]) > 0 for one in guess(world, attack, noise)]
    assert 3 <= sum(guesses) <= 17


def test_shadow_sets_are_public_and_half_of_each_kind(world):
    asked = []

    def federate(sets, draw):
        asked.extend(sets)
        return torch.randn(len(sets), world.model.layout.size, generator=torch.Generator().manual_seed(draw))

    ReleasedModelPropertyInference(shadows=10, assumed_examples=5).run(
        released(world.initial), world.facts(_federate=federate), generator=torch.Generator().manual_seed(0)
    )
    assert [len(one) for one in asked] == [50] * 10
    public = {tuple(row) for row in world.auxiliary.x.flatten(1).tolist()}
    assert all(tuple(row) in public for one in asked for row in one.x.flatten(1).tolist())
    ink = torch.tensor([float(one.attributes["ink"].double().mean()) for one in asked])
    assert int((ink > 0.5).sum()) == 5


def test_a_shadow_that_diverged_is_said(world):
    def federate(sets, draw):
        return torch.full((len(sets), world.model.layout.size), float("nan"))

    with pytest.raises(NotApplicable, match="not finite"):
        ReleasedModelPropertyInference(shadows=8).run(
            released(world.initial), world.facts(_federate=federate), generator=torch.Generator()
        )
