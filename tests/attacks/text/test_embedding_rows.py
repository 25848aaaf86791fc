from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.text.base import embedding_slot
from fedsec.attacks.text.embedding_rows import EmbeddingRows, moved_rows
from fedsec.models.flat import FlatModel
from fedsec.models.recurrent import CharRNN
from fedsec.protocol.events import Topic
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View


def noisy(scene, deviation):
    draw = torch.Generator().manual_seed(7)
    return {who: u + deviation * torch.randn(u.shape, generator=draw) for who, u in scene.updates.items()}


@pytest.mark.parametrize("local", [{}, {"epochs": 3, "batch_size": 2}, {"optimizer": "adam", "learning_rate": 0.01}])
def test_the_set_is_exact_in_clear(make, words, local):
    scene = make(sizes=(1, 4, 9), **local)
    evidence = scene.run(EmbeddingRows())
    assert not evidence.ordered
    for source, tokens in zip(evidence.sources, evidence.tokens, strict=True):
        assert set(tokens.tolist()) == words(scene.held[source[1]])
    assert scene.measured(evidence)["token_set_f1"][0] == 1.0


@pytest.mark.parametrize("local", [{"weight_decay": 0.01}, {"weight_decay": 0.01, "epochs": 3}])
def test_weight_decay_is_taken_off(make, words, local):
    scene = make(sizes=(2, 5), **local)
    for source, tokens in zip(*(lambda e: (e.sources, e.tokens))(scene.run(EmbeddingRows())), strict=True):
        assert set(tokens.tolist()) == words(scene.held[source[1]])


def test_an_aggregate_gives_the_words_of_the_cohort(make, words):
    scene = make(sizes=(3, 3))
    mean = torch.stack(list(scene.updates.values())).mean(0)
    event = scene.view().of(Topic.UPLOAD)[0]
    view = View("server", (replace(event, topic=Topic.AGGREGATE, sender="server", values=mean),))
    attack = EmbeddingRows()
    (tokens,) = attack.run(view, scene.facts(attack), generator=torch.Generator()).tokens
    assert set(tokens.tolist()) == words(scene.held["client:0"]) | words(scene.held["client:1"])


def test_small_noise_hides_nothing_and_large_noise_everything(make):
    scene = make(sizes=(2, 2, 2, 2))
    row = min(float(u.abs().max()) for u in scene.updates.values())
    quiet = scene.measured(scene.run(EmbeddingRows(), updates=noisy(scene, 1e-4 * row), stack=("dp-local()",)))
    loud = scene.measured(scene.run(EmbeddingRows(), updates=noisy(scene, 100 * row), stack=("dp-local()",)))
    assert quiet["token_set_f1"][0] > 0.95
    assert loud["token_set_f1"][0] <= loud["token_set_f1"][1] + 0.05


def test_another_clients_update_gives_the_floor(make):
    scene = make(sizes=(1,) * 12)
    names = list(scene.updates)
    swapped = {who: scene.updates[other] for who, other in zip(names, names[1:] + names[:1], strict=True)}
    value, floor = scene.measured(scene.run(EmbeddingRows(), updates=swapped))["token_set_f1"]
    assert value <= floor + 0.1


def test_a_recurrent_model_leaks_too(make, words):
    scene = make()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FlatModel.of(CharRNN(width=8).build(scene.info), task="classification", name="char-rnn")
    module = model.instance(model.vector())
    held = scene.held["client:0"]
    model.loss(module(held.x), held.y).mean().backward()
    slot = embedding_slot(model, scene.info.vocabulary)
    rows = dict(module.named_parameters())[slot.name].grad
    assert set(moved_rows(rows, module.embedding.tokens.weight.detach()).tokens.tolist()) == words(held)


def test_a_tied_embedding_is_refused():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(30, 4)
            self.head = nn.Linear(4, 30, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, x):
            return self.head(self.tokens(x))

    with pytest.raises(NotApplicable, match="tied"):
        embedding_slot(FlatModel.of(Tied(), task="next-token", name="tied"), 30)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 20), st.sampled_from([0.0, 1e-3]))
def test_moved_rows_find_what_was_added(seed, many, decay):
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(100, 32, generator=draw)
    chosen = torch.randperm(100, generator=draw)[:many]
    rows = -decay * weights + 1e-6 * torch.randn(100, 32, generator=draw)
    rows[chosen] += 1e-3 * torch.randn(many, 32, generator=draw)
    found = moved_rows(rows, weights)
    assert set(found.tokens.tolist()) >= set(chosen.tolist())
    assert len(found.tokens) <= many + 1
    assert found.noise == pytest.approx(1e-6, rel=0.2)
