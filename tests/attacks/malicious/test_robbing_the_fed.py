import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_scene import attacked, conv, federation, mlp, noised, rotated, softmax

from fedsec.attacks.malicious.queries import alone
from fedsec.attacks.malicious.robbing_the_fed import RobbingTheFed, cumulative_rows, per_bin, read_bins, step_rows
from fedsec.federation.training import LocalTraining
from fedsec.protocol.outcome import NotApplicable
from fedsec.randomness import generator


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 7), st.booleans())
def test_what_each_bin_says_against_autograd(seed, examples, bins, cumulative):
    draw = generator(seed)
    x = torch.rand(examples, 6, generator=draw, dtype=torch.float64)
    strength = torch.randn(examples, generator=draw, dtype=torch.float64)
    query = torch.full((6,), 1 / 6, dtype=torch.float64)
    edges = torch.rand(bins - 1, generator=draw, dtype=torch.float64).sort().values
    if cumulative:
        (weight, bias), act = cumulative_rows(query, edges, lowest=-0.1, scale=0.5), torch.relu
    else:
        (weight, bias), height = step_rows(query, edges, lowest=-0.1, highest=1.1, scale=0.5)

        def act(z):
            return z.clamp(0, height)

    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    loss = (strength.unsqueeze(1) * act(x @ weight.T + bias)).sum()
    found = per_bin(*torch.autograd.grad(loss, (weight, bias)), cumulative=cumulative)
    place = torch.bucketize(x @ query, edges)
    for number in range(bins):
        inside = place == number
        assert torch.allclose(found[0][number], strength[inside] @ x[inside], atol=1e-10)
        assert torch.allclose(found[1][number], strength[inside].sum(), atol=1e-10)


def test_rows_near_zero_are_not_divided_and_the_longest_are_taken_under_noise():
    draw = generator(3)
    x = torch.rand(3, 50, generator=draw)
    weight, bias = torch.zeros(20, 50), torch.zeros(20)
    places = torch.tensor([2, 7, 15])
    weight[places], bias[places] = x * 0.5, torch.full((3,), 0.5)
    inputs, bins = read_bins(weight, bias, rounding=torch.full((20,), 1e-6), most=10)
    assert sorted(bins.tolist()) == [2, 7, 15]
    assert torch.allclose(inputs, x[torch.bucketize(bins, places)])
    noisy = weight + 1e-3 * torch.randn(weight.shape, generator=draw), bias + 1e-3 * torch.randn(20, generator=draw)
    inputs, bins = read_bins(*noisy, rounding=torch.full((20,), 1e-6), most=3)
    assert sorted(bins.tolist()) == [2, 7, 15]
    assert (inputs - x[torch.bucketize(bins, places)]).abs().max() < 0.05
    # dividing every bin instead finds rows that explode
    everything, _ = read_bins(*noisy, rounding=torch.zeros(20), most=20)
    assert everything.abs().max() > 1.5


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda: mlp(128), {}),
        (conv, {}),
        (softmax, {"variant": "sparse"}),
        (conv, {"query": "cosine", "mode": (1, 0)}),
        (lambda: mlp(128), {"placement": "block", "statistics": "gaussian"}),
    ],
    ids=["first-layer", "block", "sparse", "cosine", "gaussian"],
)
def test_exactly_those_alone_in_their_bin_are_read(make, settings):
    setup = federation(make)
    attack = RobbingTheFed(bins=128, **settings)
    scene = attacked(setup, attack)
    edges, query = attack.edges(scene.facts), attack.vector(scene.facts)
    lonely, mixed, total = [], [], 0
    for source, error in scene.errors().items():
        values = scene.truth.behind[source].x.flatten(1).double() @ query
        single = alone(values, edges)
        lonely.append(error[single])
        mixed.append(error[~single])
        # every occupied bin is returned, mixtures included: false hits count against the attack
        occupied = len(set(torch.bucketize(values, edges).tolist()))
        returned = sum(of == source for of in scene.evidence.sources)
        assert occupied - 1 <= returned <= occupied
        total += returned
    assert (torch.cat(lonely) < 1e-3).double().mean() > 0.97
    assert (torch.cat(mixed) < 1e-3).double().mean() < 0.1
    assert len(torch.cat(lonely)) < total <= len(torch.cat(lonely)) + len(torch.cat(mixed))
    metrics = scene.metrics()
    assert metrics["identified"] > 0.85
    changed = setup.model.layout != scene.planting.setup.model.layout
    assert changed == (make in (conv, softmax) or settings.get("placement") == "block")
    assert changed == scene.planting.changed == ("changed architecture" in scene.planting.notes[0])


def test_one_shot_reads_one_bin():
    setup = federation(conv, clients=12)
    scene = attacked(setup, RobbingTheFed(bins=16, variant="one-shot", victims=12))
    assert len(scene.evidence.sources) == 12
    hits = sum(float((error < 1e-3).sum()) for error in scene.errors().values())
    assert 1 <= hits <= 9  # n/k (1 - 1/k)^(n - 1) = 0.38 of 12 clients


def test_another_clients_update_says_nothing():
    scene = attacked(federation(lambda: mlp(128)), RobbingTheFed(bins=128), change=rotated)
    assert scene.exact(0.02) == 0.0
    found = next(m for m in scene.judgement().measurements if m.name == "identified")
    assert float(found.units.mean()) < float(found.floor_units.mean()) + 0.15


def test_noise_in_the_place_of_the_update_says_nothing():
    scene = attacked(federation(lambda: mlp(128)), RobbingTheFed(bins=128), change=noised())
    assert bool(scene.evidence.inputs.isfinite().all())
    assert scene.exact(0.02) == 0.0
    assert scene.metrics()["identified"] < 0.3


def test_noise_hides_more_the_larger_it_is():
    setup = federation(lambda: mlp(128))
    shares = [attacked(setup, RobbingTheFed(bins=128), change=noised(size)).exact(0.05) for size in (1e-8, 1e-4, 1e-2)]
    assert shares[0] > 0.8
    assert shares[0] > shares[1] > shares[2] - 1e-9
    assert shares[2] == 0.0


def test_several_local_steps_weaken_it():
    attack = RobbingTheFed(bins=128)
    one = attacked(federation(conv), attack).exact()
    four = attacked(federation(conv, local=LocalTraining(epochs=1, batch_size=4, learning_rate=0.1)), attack).exact()
    assert one > 0.8
    assert four < 0.7 * one


def test_too_few_units_and_steps_in_the_models_own_layer_are_refused():
    setup = federation(lambda: mlp(16))
    with pytest.raises(NotApplicable, match="16 units, fewer than the 32 rows"):
        attacked(setup, RobbingTheFed(bins=32, placement="first-layer"))
    with pytest.raises(NotApplicable, match="step activations"):
        attacked(setup, RobbingTheFed(bins=8, placement="first-layer", variant="sparse"))
    assert attacked(setup, RobbingTheFed(bins=32)).planting.changed
