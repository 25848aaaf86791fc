"""What is left open beside sealed coordinates is matched, and nothing is read into the others."""

from __future__ import annotations

import torch

from fedsec.attacks.inversion.matching import cosine_distance, squared_distance
from fedsec.attacks.inversion.observed import observe
from fedsec.attacks.inversion.victims import victims
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
