import pytest
import torch

from fedsec.attacks.text.tag import Dummies, Tag, layer_weights, nearest_tokens, tag_distance


def test_the_distance_by_a_loop():
    draw = torch.Generator().manual_seed(0)
    found = [torch.randn(3, 2, generator=draw), torch.randn(4, generator=draw)]
    target = [torch.randn(3, 2, generator=draw), torch.randn(4, generator=draw)]
    size = sum(float(v) ** 2 for t in target for v in t.flatten()) ** 0.5
    expected = 0.0
    for mine, theirs, weight in zip(found, target, (1.0, 0.5), strict=True):
        for a, b in zip(mine.flatten().tolist(), theirs.flatten().tolist(), strict=True):
            expected += ((a - b) / size) ** 2 + 0.1 * weight * abs(a - b) / size
    assert layer_weights(2) == [1.0, 0.5]
    assert float(tag_distance(found, target, alpha=0.1, scale_free=False)) == pytest.approx(expected, rel=1e-5)
    scaled = [7 * one for one in target]
    assert float(tag_distance(scaled, target, alpha=0.1, scale_free=True)) == pytest.approx(0, abs=1e-5)


def test_decoding_does_not_prefer_short_embeddings():
    table = torch.tensor([[9.0, 9.0], [0.1, 0.0], [0.0, 3.0], [3.0, 0.3]])
    found = nearest_tokens(torch.tensor([[2.0, 0.19], [0.0, 0.1]]), table, torch.tensor([1, 2, 3]))
    assert found.tolist() == [3, 2]


@pytest.mark.parametrize("causal", [False, True])
def test_the_true_embeddings_have_distance_zero(make, characters, causal):
    scene = make(characters, sizes=(1,)) if causal else make(sizes=(1,))
    held = scene.held["client:0"]
    # without padding, which dummies do not have
    x = held.x[:, : int((held.x != 0).sum())]
    state = scene.model.vector()
    dummies = Dummies(scene.model, state, "embedding.tokens")
    module = scene.model.instance(state)
    classes = scene.info.vocabulary if causal else len(scene.info.classes)
    labels = torch.nn.functional.one_hot(held.y, classes).float()
    found = dummies.gradients(module.embedding.tokens(x).detach(), labels)
    scene.model.loss(module(x), held.y).mean().backward()
    grads = dict(module.named_parameters())
    target = [grads[name].grad for name in dummies.names]
    assert float(tag_distance(found, target, alpha=0.01, scale_free=False).detach()) < 1e-4


def test_finds_the_tokens_of_one_sequence(make, characters):
    scene = make(characters, sizes=(1,), width=32, layers=1)
    found = scene.measured(scene.run(Tag(steps=80, learning_rate=0.1)))
    assert found["rouge1"][0] > found["rouge1"][1] + 0.3


def test_only_leaked_tokens_are_decoded_on_demand(make, words):
    scene = make(sizes=(1,), width=32, layers=1)
    (found,) = scene.run(Tag(steps=2, leaked_tokens=True)).tokens
    assert set(found.tolist()) <= words(scene.held["client:0"])


def test_another_clients_update_gives_the_floor(make):
    scene = make(sizes=(1,) * 4, width=32, layers=1)
    names = list(scene.updates)
    swapped = {who: scene.updates[other] for who, other in zip(names, names[1:] + names[:1], strict=True)}
    value, floor = scene.measured(scene.run(Tag(steps=20), updates=swapped))["rouge1"]
    assert value <= floor + 0.15
