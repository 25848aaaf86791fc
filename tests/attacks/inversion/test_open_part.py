"""What is left open beside sealed coordinates is matched, and nothing is read into the others."""

from __future__ import annotations

import pytest
import torch

from fedsec.attacks.inversion.linear_layer import LinearLayerInversion
from fedsec.attacks.inversion.matching import cosine_distance, squared_distance
from fedsec.attacks.inversion.observed import observe
from fedsec.attacks.inversion.victims import Victim, victims
from fedsec.protocol.events import Topic
from fedsec.protocol.view import Seen, View
from fedsec.randomness import generator

LAYERS = (slice(0, 6), slice(6, 10))


def test_unread_coordinates_do_not_count():
    draw = generator("unread")
    truth = torch.randn(3, 10, generator=draw)
    read = torch.rand(3, 10, generator=draw) < 0.6
    sent = truth.masked_fill(~read, 0.0)
    seen = observe(sent, sent, LAYERS, stack=("selective-encryption",), read=read)
    for distance in (cosine_distance, squared_distance):
        right = distance(seen(truth), seen(sent))
        assert torch.allclose(right, torch.zeros(3), atol=1e-6)
        other = truth + torch.randn(3, 10, generator=draw).masked_fill(read, 0.0) * 50
        assert torch.allclose(distance(seen(other), seen(sent)), right, atol=1e-6)
        wrong = truth + torch.randn(3, 10, generator=draw).masked_fill(~read, 0.0)
        assert bool((distance(seen(wrong), seen(sent)) > 0.01).all())
    blind = observe(sent, sent, LAYERS, stack=("selective-encryption",))
    assert bool((squared_distance(blind(truth), blind(sent)) > 0.01).all())


def test_reading_everything_changes_nothing():
    update = torch.randn(2, 10, generator=generator("all"))
    whole = observe(update, update, LAYERS, read=torch.ones(2, 10, dtype=torch.bool))
    assert whole.least is None
    assert torch.equal(whole(update), observe(update, update, LAYERS)(update))


def test_victims_know_where_they_were_read(networks):
    class Facts:
        model = networks["sigmoid-mlp"]()
        initial = model.vector()
        cohort = 1

    where = torch.rand(Facts.model.layout.size, generator=generator("where")) < 0.5
    event = Seen(
        round=0, topic=Topic.UPLOAD, sender="client:0", values=Facts.initial.clone(), weight=1.0, about=(), where=where
    )
    (victim,) = victims(View("server", (event,)), Facts, targets=1)
    assert torch.equal(victim.where, where[: Facts.model.layout.trainable])


class Sees64:
    """Public facts of 8 x 8 images in [0, 1]."""

    class info:
        input_shape = (1, 8, 8)
        bounds = (0.0, 1.0)


@pytest.mark.parametrize("examples", [1, 3])
def test_four_fifths_of_the_coordinates_give_whole_images(networks, examples):
    """What is sealed at random is told by other rows; what is sealed of every row is not."""
    facts = Sees64()
    facts.model = networks["softmax"]()
    draw = generator("half", examples)
    x = torch.rand(examples, 64, generator=draw)
    owner = torch.arange(10) % examples
    delta = torch.rand(10, generator=draw) + 0.5
    update = torch.cat([(delta[:, None] * x[owner]).flatten(), delta])
    share = 0.2 if examples == 1 else 0.0
    where = torch.rand(650, generator=draw) >= share
    if examples == 3:  # one pixel of one row of each example
        where[torch.arange(3) * 64 + 5] = False

    def read(mask):
        victim = Victim(
            round=0, sender="client:0", update=update.masked_fill(~mask, 0.0), model=facts.model.vector(),
            examples=examples, trainers=1, where=mask,
        )  # fmt: skip
        return LinearLayerInversion().read(victim, examples, facts)[0].flatten(1)

    assert float((torch.cdist(x, read(where)).amin(1)).max()) < 1e-4
    hidden = where.clone()
    hidden[torch.arange(10) * 64 + 7] = False
    assert float((torch.cdist(x, read(hidden)).amin(1)).max()) > 0.1
