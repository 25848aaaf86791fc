import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.judges.base import Truth
from fedsec.judges.identification import contest, nearest_public, true_rank
from fedsec.judges.image_quality import PSNR_CAP, psnr, ssim
from fedsec.judges.matching import match, multiset_agreement
from fedsec.judges.reconstruction import ReconstructionJudge
from fedsec.models.flat import FlatModel
from fedsec.protocol.evidence import MembershipScores, Reconstructions
from fedsec.randomness import generator

IMAGES = DatasetInfo(
    name="blobs",
    summary="Random images",
    task="classification",
    input_shape=(1, 8, 8),
    classes=("a", "b", "c"),
    bounds=(0.0, 1.0),
    modality="image",
    public=True,
)
TABLE = dataclasses.replace(IMAGES, input_shape=(6,), modality="tabular", bounds=(-1.0, 3.0))


def drawn(info, count, seed):
    low, high = info.bounds
    draw = generator(seed, "examples")
    x = low + (high - low) * torch.rand(count, *info.input_shape, generator=draw)
    return Examples(x, torch.arange(count) % 3)


def truth(info=IMAGES, *, sources=4, examples=3, decoys=300):
    model = FlatModel.of(nn.Linear(2, 3), task="classification", name="linear")
    return Truth(
        info=info,
        model=model,
        released=model.vector(),
        initial=model.vector(),
        behind={(0, f"client:{c}"): drawn(info, examples, c) for c in range(sources)},
        test=drawn(info, 10, 100),
        decoys=drawn(info, decoys, 101),
        candidates=None,
        members=None,
        property_name="",
        property_share={},
        generator=generator(0, "judge"),
    )


def perfect(t, per_source=3):
    rows = [(source, i) for source in t.behind for i in reversed(range(per_source))]
    return Reconstructions(
        sources=tuple(source for source, _ in rows),
        inputs=torch.stack([t.behind[source].x[i] for source, i in rows]),
        labels=torch.stack([t.behind[source].y[i] for source, i in rows]),
        confidence=torch.ones(len(rows)),
    )


def only(evidence, rows):
    return Reconstructions(
        sources=tuple(evidence.sources[row] for row in rows),
        inputs=evidence.inputs[rows],
        labels=evidence.labels[rows],
        confidence=evidence.confidence[rows],
    )


def measured(evidence, t):
    return {m.name: m for m in ReconstructionJudge().measure(evidence, t).measurements}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_matching_is_the_best_of_all_assignments(seed, found, true):
    draw = generator(seed, "match")
    a, b = torch.rand(found, 3, generator=draw), torch.rand(true, 3, generator=draw)
    rows, columns = match(a, b)
    size = min(found, true)
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == size
    cost = float((a[rows] - b[columns]).square().sum())
    every = [
        float((a[list(i)] - b[list(j)]).square().sum())
        for i in itertools.combinations(range(found), size)
        for j in itertools.permutations(range(true), size)
    ]
    assert cost == pytest.approx(min(every), abs=1e-5)


def test_multisets_use_each_true_label_once():
    assert multiset_agreement(torch.tensor([1, 1, 2]), torch.tensor([1, 2, 2])) == pytest.approx(2 / 3)
    assert multiset_agreement(torch.tensor([0]), torch.tensor([2])) == 0.0


def test_a_tie_counts_against_the_true_example():
    x = torch.tensor([0.0, 1.0])
    assert true_rank(x, x, torch.stack([x + 1, x + 2])) == 1
    assert true_rank(x, x, torch.stack([x, x + 2])) == 2


def test_copies_are_full_success_whatever_their_order():
    t = truth()
    found = measured(perfect(t), t)
    assert found["identified"].headline
    assert [m.name for m in found.values() if m.headline] == ["identified"]
    assert found["identified"].units.tolist() == [1.0] * 12
    assert found["identification_rank"].units.tolist() == [1.0] * 12
    assert found["coverage"].units.tolist() == [1.0] * 12
    assert float(found["mse"].units.max()) == 0.0
    assert float(found["psnr"].units.min()) == PSNR_CAP
    assert found["ssim"].units.tolist() == pytest.approx([1.0] * 12, abs=1e-4)
    assert found["label_accuracy"].units.tolist() == [1.0] * 4
    assert found["identified"].clusters.unique().tolist() == [0, 1, 2, 3]


def test_noise_and_the_floor_identify_as_often_as_a_guess():
    t = truth(sources=60)
    evidence = dataclasses.replace(perfect(t), inputs=torch.rand(180, 1, 8, 8, generator=generator(9)))
    identified = measured(evidence, t)["identified"]
    assert float(identified.units.mean()) < 0.15
    assert 0.0 < float(identified.floor_units.mean()) < 0.15


def test_inputs_beyond_the_number_of_examples_are_failures():
    t = truth(sources=1, examples=1)
    one = perfect(t, 1)
    three = Reconstructions(
        sources=one.sources * 3,
        inputs=one.inputs.repeat(3, 1, 1, 1),
        labels=one.labels.repeat(3),
        confidence=torch.ones(3),
    )
    found = measured(three, t)
    assert sorted(found["identified"].units.tolist()) == [0.0, 0.0, 1.0]
    assert found["identification_rank"].units.max() == 20
    assert found["label_accuracy"].units.tolist() == pytest.approx([1 / 3])


def test_returning_fewer_for_a_hard_source_is_a_failure():
    t = truth(sources=2)
    evidence = perfect(t)
    found = measured(only(evidence, [0, 1, 2, 3]), t)
    assert float(found["identified"].units.mean()) == pytest.approx(4 / 6)
    assert len(found["mse"].units) == 4


def test_returning_one_per_source_lowers_the_coverage():
    t = truth(sources=2)
    found = measured(only(perfect(t), [0, 3]), t)
    assert found["identified"].units.tolist() == [1.0, 1.0]
    assert float(found["coverage"].units.mean()) == pytest.approx(1 / 3)


def test_the_same_image_twice_matches_one_example_only():
    t = truth(sources=1)
    evidence = perfect(t)
    copies = dataclasses.replace(evidence, inputs=evidence.inputs[:1].repeat(3, 1, 1, 1))
    assert float(measured(copies, t)["identified"].units.sum()) == 1.0


def test_tables_have_no_image_quality():
    t = truth(TABLE)
    found = measured(perfect(t), t)
    assert "psnr" not in found
    assert "ssim" not in found
    assert found["identified"].units.tolist() == [1.0] * 12


def test_a_regression_has_no_label_accuracy_and_draws_decoys_from_all():
    t = truth(dataclasses.replace(TABLE, task="regression", classes=()))
    found = measured(dataclasses.replace(perfect(t), labels=torch.rand(12)), t)
    assert "label_accuracy" not in found
    assert found["identified"].units.tolist() == [1.0] * 12


def test_values_that_are_not_finite_are_wrong_and_not_an_error():
    t = truth()
    evidence = dataclasses.replace(perfect(t), inputs=torch.full((12, 1, 8, 8), torch.nan))
    found = measured(evidence, t)
    assert bool(found["mse"].units.isfinite().all())
    assert float(found["identified"].units.mean()) < 0.5


def test_decoys_are_of_the_class_and_guesses_are_no_decoys():
    decoys = drawn(IMAGES, 300, 3)
    one = contest(torch.tensor(2), decoys, classes=True, generator=generator(0))
    assert one.decoys.shape == (19, 1, 8, 8)
    of_class = decoys.x[decoys.y == 2]
    assert all(bool((of_class == decoy).flatten(1).all(1).any()) for decoy in one.decoys)
    assert not bool((one.decoys == one.blind["random example"]).flatten(1).all(1).any())
    assert torch.allclose(one.blind["mean image"], of_class.mean(0))


def test_few_decoys_are_said():
    judgement = ReconstructionJudge().measure(perfect(truth()), truth(decoys=15))
    assert any("public examples, so a guess succeeds more often" in note for note in judgement.notes)


def test_the_gallery_runs_from_best_to_worst():
    t = truth()
    evidence = perfect(t)
    noise = torch.randn(evidence.inputs.shape, generator=generator(1)) * torch.linspace(0, 0.5, 12).view(-1, 1, 1, 1)
    exhibits = ReconstructionJudge().measure(dataclasses.replace(evidence, inputs=evidence.inputs + noise), t).exhibits
    scores = exhibits["gallery/score"]
    assert exhibits["gallery/original"].shape == exhibits["gallery/reconstruction"].shape == (7, 1, 8, 8)
    assert torch.equal(scores, scores.sort(descending=True).values)
    assert float(scores[0]) == PSNR_CAP


def test_originals_that_are_not_public_are_not_shown():
    t = truth(dataclasses.replace(IMAGES, public=False))
    assert not ReconstructionJudge().measure(perfect(t), t).exhibits


@pytest.mark.parametrize("side", [3, 4, 8, 11, 12, 28])
def test_similarity_is_finite_on_small_images(side):
    draw = generator(side, "ssim")
    a, b = torch.rand(2, 5, 3, side, side, generator=draw)
    assert bool(ssim(a, b, (0.0, 1.0)).isfinite().all())
    assert ssim(a, a, (0.0, 1.0)).tolist() == pytest.approx([1.0] * 5, abs=1e-4)


def test_one_exact_pair_does_not_hide_the_others():
    a = torch.rand(3, 1, 8, 8, generator=generator(0))
    b = torch.stack([a[0], a[1] + 0.1, a[2] + 0.01])
    assert psnr(b, a, (0.0, 1.0)).tolist() == pytest.approx([PSNR_CAP, 20.0, 40.0], abs=1e-3)
    assert psnr(2 * b, 2 * a, (0.0, 2.0)).tolist() == pytest.approx([PSNR_CAP, 20.0, 40.0], abs=1e-3)


def test_what_it_cannot_measure_is_refused():
    t = truth()
    with pytest.raises(TypeError, match="Reconstructions"):
        ReconstructionJudge().measure(MembershipScores(scores=torch.ones(1)), t)
    stranger = dataclasses.replace(perfect(t), sources=((9, "client:9"),) * 12)
    with pytest.raises(ValueError, match="no examples"):
        ReconstructionJudge().measure(stranger, t)


def test_matching_alone_is_no_leak():
    """Noise matched to many examples often has one of them nearest: the placebo says so, and the advantage is gone."""
    from fedsec.randomness import numpy_generator
    from fedsec.statistics.pooling import pool

    held = truth(decoys=400)
    source = next(iter(held.behind))
    many = Examples(torch.rand(200, *held.test.x.shape[1:], generator=generator("many")), held.decoys.y[:200])
    held = dataclasses.replace(held, behind={source: many})
    noise = Reconstructions(
        sources=(source,) * 40,
        inputs=torch.rand(40, *many.x.shape[1:], generator=generator("noise")),
        labels=None,
        confidence=torch.zeros(40),
    )
    identified = next(m for m in ReconstructionJudge().measure(noise, held).measurements if m.headline)
    pooled = pool([identified], generator=numpy_generator("test"))
    assert pooled.value > 0.3, "matching alone identifies many"
    assert pooled.advantage_low == 0.0


def test_reconstructions_from_aggregates_are_headed_by_copies():
    """Of a few hundred examples behind an aggregate noise always has one that it is nearest to."""
    apart = truth(sources=1, examples=200)
    together = dataclasses.replace(apart, behind={(0, "server"): apart.behind[0, "client:0"]})
    for t, expected in ((apart, "identified"), (together, "success@1e-2")):
        noise = Reconstructions(
            sources=tuple(t.behind) * 5,
            inputs=drawn(IMAGES, 5, 7).x,
            labels=drawn(IMAGES, 5, 7).y,
            confidence=torch.ones(5),
        )
        judgement = ReconstructionJudge().measure(noise, t)
        assert [m.name for m in judgement.measurements if m.headline] == [expected]
    copied = measured(only(perfect(together, 200), list(range(5))), together)["success@1e-2"]
    assert copied.headline
    assert float(copied.units.mean()) == 1.0


def test_the_nearest_public_example_is_of_the_class_and_is_not_the_target():
    public = drawn(IMAGES, 60, 4)
    true, labels = public.x[:6] + 1e-3, public.y[:6]
    assert torch.equal(nearest_public(true, labels, public, classes=True), public.x[:6])
    for x, y, found in zip(
        public.x[:6], labels, nearest_public(public.x[:6], labels, public, classes=True), strict=True
    ):
        assert not torch.equal(found, x)
        of_class = public.x[public.y == y]
        apart = (of_class - x).square().flatten(1).sum(1)
        assert torch.equal(found, of_class[apart.argsort()[1]])


def test_copies_up_to_an_error_are_counted_and_what_is_missing_is_not():
    t = truth(TABLE, sources=2)
    evidence = perfect(t)
    width = 4.0
    off = torch.tensor([0.0, 0.02, 0.05, 0.09, 0.11, 0.5]).view(6, 1) * width  # squares: 4e-4, 2.5e-3, 8.1e-3, ...
    moved = dataclasses.replace(evidence, inputs=evidence.inputs + torch.where(evidence.inputs < 1, off, -off))
    found = measured(moved, t)
    assert float(found["success@1e-3"].units.sum()) == 2
    assert float(found["success@1e-2"].units.sum()) == 4
    fewer = measured(only(evidence, [0, 1, 2, 3]), t)
    assert float(fewer["success@1e-3"].units.mean()) == pytest.approx(4 / 6)
    assert float(found["success@1e-2"].floor_units.mean()) == 0.0


def test_copies_beat_public_examples_and_public_examples_do_not():
    t = truth()
    assert measured(perfect(t), t)["beats_public"].units.tolist() == [1.0] * 12
    nearest = nearest_public(perfect(t).inputs, perfect(t).labels, t.decoys, classes=True)
    found = measured(dataclasses.replace(perfect(t), inputs=nearest), t)
    assert float(found["beats_public"].units.mean()) <= 0.5  # some of the nearest are among the placebo's examples
    assert float(found["psnr"].units.mean()) <= float(found["psnr"].floor_units.mean()) + 1


def test_the_best_the_median_and_the_worst_stand_beside_the_mean():
    t = truth(sources=1)
    evidence = perfect(t)
    noise = torch.tensor([0.0, 0.05, 0.2]).view(3, 1, 1, 1) * torch.sign(0.5 - evidence.inputs)
    found = measured(dataclasses.replace(evidence, inputs=evidence.inputs + noise), t)
    values = [float(found[name].units) for name in ("psnr_best", "psnr_median", "psnr_worst")]
    assert values == pytest.approx([PSNR_CAP, 26.02, 13.98], abs=0.01)
    floors = [float(found[name].floor_units) for name in ("psnr_best", "psnr_median", "psnr_worst")]
    assert floors == sorted(floors, reverse=True)


def test_the_most_exposed_clients_are_named_and_no_data_is():
    t = truth(sources=14)
    evidence = perfect(t)
    inputs = evidence.inputs.clone()
    wrong = [row for row, (_, sender) in enumerate(evidence.sources) if sender in {"client:0", "client:1"}]
    inputs[wrong[0]] = 1 - inputs[wrong[0]]
    inputs[wrong[3:]] = 1 - inputs[wrong[3:]]
    found = ReconstructionJudge().measure(dataclasses.replace(evidence, inputs=inputs), t).exposed
    assert len(found) == 10
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert found[0].score == 1.0
    assert found[0].text.startswith("identified 3 of 3 examples behind the attacked updates; the floor is ")
    assert not {one.unit for one in found} & {"client:1"}
    few = ReconstructionJudge().measure(only(perfect(truth(sources=2)), [0, 3]), truth(sources=2)).exposed
    assert [(one.unit, round(one.score, 2)) for one in few] == [("client:0", 0.33), ("client:1", 0.33)]


@pytest.mark.parametrize("seed", range(4))
def test_noise_exposes_nobody_beyond_the_floor(seed):
    t = truth(sources=40)
    evidence = dataclasses.replace(perfect(t), inputs=torch.rand(120, 1, 8, 8, generator=generator(seed)))
    judgement = ReconstructionJudge().measure(evidence, t)
    judged = {m.name: m for m in judgement.measurements}
    above = float(judged["identified"].units.mean()) > float(judged["identified"].floor_units.mean())
    assert bool(judgement.exposed) == above
    assert all(one.score <= 2 / 3 for one in judgement.exposed)
    assert float(judged["success@1e-2"].units.sum()) == 0.0
    assert float(judged["psnr"].units.mean()) <= float(judged["psnr"].floor_units.mean())
