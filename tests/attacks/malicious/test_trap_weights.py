import pytest
import torch
from planted_scene import attacked, conv, federation, mlp, noised, rotated

from fedsec.attacks.malicious.trap_weights import TrapWeights, calibrated_scale, trap_rows
from fedsec.federation.training import LocalTraining
from fedsec.randomness import generator


def test_half_of_each_row_is_negative_and_the_other_half_has_the_same_values():
    negative, positive = trap_rows(5, 10, deviation=0.5, generator=generator(0))
    for low, high in zip(negative, positive, strict=True):
        assert int((low < 0).sum()) == int((high > 0).sum()) == 5
        assert not bool(((low != 0) & (high != 0)).any())
        assert torch.allclose((-low[low < 0]).sort().values, high[high > 0].sort().values)


@pytest.mark.parametrize("active", [0.01, 0.1, 0.5])
def test_the_scale_makes_that_share_of_pairs_active(active):
    draw = generator(1)
    negative, positive = trap_rows(40, 30, deviation=0.5, generator=draw)
    x = torch.rand(100, 30, generator=draw)
    scale = calibrated_scale(negative, positive, x, active=active)
    pairs = [float(row @ one) > 0 for row in negative + scale * positive for one in x.double()]
    assert sum(pairs) / len(pairs) == pytest.approx(active, abs=2e-3)


@pytest.mark.parametrize("make", [lambda: mlp(256), conv], ids=["first-layer", "block"])
def test_a_good_part_of_a_batch_is_read_exactly(make):
    setup = federation(make, each=12, clients=6)
    scene = attacked(setup, TrapWeights(rows=256, active=0.05))
    assert scene.exact() > 0.5
    assert scene.metrics()["identified"] > 0.6
    assert scene.planting.changed == (make is conv)


def test_it_beats_the_same_reading_of_an_honest_model():
    from fedsec.attacks.inversion.linear_layer import LinearLayerInversion

    setup = federation(lambda: mlp(256), each=64, clients=4)
    scene = attacked(setup, TrapWeights(rows=256, active=0.05))

    class Honest(TrapWeights):
        def plant(self, model, facts, *, generator):
            from fedsec.protocol.parties import Planted

            return Planted(facts.model, model)

        def run(self, view, facts, *, generator):
            return LinearLayerInversion(max_examples=64).run(view, facts, generator=generator)

    honest = attacked(setup, Honest())
    assert scene.exact() > 2 * honest.exact()


@pytest.mark.parametrize("change", [rotated, noised()], ids=["another-client", "noise"])
def test_without_the_update_it_knows_nothing(change):
    scene = attacked(federation(lambda: mlp(256), each=12, clients=6), TrapWeights(active=0.05), change=change)
    assert scene.exact(0.02) == 0.0
    found = next(m for m in scene.judgement().measurements if m.name == "identified")
    assert float(found.units.mean()) < float(found.floor_units.mean()) + 0.2


def test_several_local_steps_weaken_it():
    attack = TrapWeights(active=0.05)
    one = attacked(federation(lambda: mlp(256), each=12, clients=6), attack).exact()
    local = LocalTraining(epochs=2, batch_size=3, learning_rate=0.1)
    several = attacked(federation(lambda: mlp(256), each=12, clients=6, local=local), attack).exact()
    assert several < one
