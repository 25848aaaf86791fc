from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.errors import ConfigurationError
from fedsec.judges.base import Truth
from fedsec.judges.embedding_evasion import EmbeddingEvasionJudge
from fedsec.models.flat import FlatModel
from fedsec.models.tokens import Embedding, mean_of_words
from fedsec.protocol.evidence import LayerPerturbations, MembershipScores

INFO = DatasetInfo(
    name="toy",
    summary="",
    task="classification",
    input_shape=(4,),
    classes=("bad", "good"),
    bounds=None,
    modality="text",
    vocabulary=3,
)


class Bag(nn.Module):
    """Good is a mean embedding whose first number is above zero."""

    def __init__(self):
        super().__init__()
        self.embedding = Embedding(3, 16)
        self.head = nn.Linear(16, 2, bias=False)
        with torch.no_grad():
            self.embedding.tokens.weight.zero_()
            self.embedding.tokens.weight[1, 0], self.embedding.tokens.weight[2, 0] = -1.0, 1.0
            self.head.weight.zero_()
            self.head.weight[1, 0] = 1.0

    def forward(self, tokens):
        return self.head(mean_of_words(self.embedding(tokens), tokens))


def truth_of():
    """Twenty bad texts of two bad words and twenty good ones of two good words, half of each padding."""
    model = FlatModel.of(Bag(), task="classification", name="bag")
    y = (torch.arange(40) >= 20).long()
    x = torch.stack([y + 1, y + 1, torch.zeros_like(y), torch.zeros_like(y)], 1)
    test = Examples(x, y)
    return Truth(
        info=INFO,
        model=model,
        released=model.vector(),
        initial=model.vector(),
        behind={},
        test=test,
        decoys=test,
        candidates=None,
        members=None,
        property_name="",
        property_share={},
        generator=torch.Generator().manual_seed(0),
    )


def evidence(length, *, words=True, count=40):
    """Each word (or padding) of a text moved towards the other class, all together by this length."""
    deltas = torch.zeros(count, 4, 16)
    toward = torch.where(torch.arange(count) < 20, 1.0, -1.0)
    deltas[:, (0 if words else 2) : (2 if words else 4), 0] = toward[:, None] * length / 2**0.5
    return LayerPerturbations(layer="embedding.tokens", deltas=deltas, forwards=1, backwards=1)


def measured(given, truth=None):
    judgement = EmbeddingEvasionJudge().measure(given, truth or truth_of())
    return judgement, {m.name: m for m in judgement.measurements}


def test_a_change_across_the_border_counts_and_noise_of_its_length_seldom_does():
    judgement, found = measured(evidence(1.5))
    robust = found["robust_error"]
    assert robust.headline
    assert robust.units.mean() == 1
    assert robust.floor_units.mean() < 0.1
    assert found["clean_error"].units.sum() == 0
    assert torch.allclose(found["mean_perturbation_l2"].units, torch.tensor(1.5))
    assert torch.allclose(found["mean_perturbation_share"].units, torch.tensor(1.5 / 2**0.5))
    assert judgement.notes == ()
    cost = measured(replace(evidence(1.5), forwards=80, backwards=20))[1]
    assert [float(cost[f"{what}_passes"].units.mean()) for what in ("forward", "backward")] == [2.0, 0.5]


def test_a_change_short_of_the_border_or_of_padding_does_not_count():
    assert measured(evidence(1.4))[1]["robust_error"].units.sum() == 0
    assert measured(evidence(9.0, words=False))[1]["robust_error"].units.sum() == 0


def test_an_attack_weaker_than_noise_is_called_broken():
    backwards = evidence(30.0)
    judgement, found = measured(replace(backwards, deltas=-backwards.deltas))
    assert found["robust_error"].units.sum() == 0
    assert found["robust_error"].floor_units.sum() > 0
    assert "broken" in judgement.notes[0]


def test_only_the_first_texts_are_read_and_other_evidence_is_refused():
    assert len(measured(evidence(1.5, count=7))[1]["robust_error"].units) == 7
    good = evidence(1.5)
    with pytest.raises(TypeError, match="MembershipScores"):
        measured(MembershipScores(scores=torch.zeros(3)))
    with pytest.raises(ValueError, match="finite"):
        measured(replace(good, deltas=good.deltas / 0))
    with pytest.raises(ValueError, match="one vector per token"):
        measured(replace(good, deltas=good.deltas[:, :3]))
    with pytest.raises(ConfigurationError, match=r"embedding\.tokens"):
        measured(replace(good, layer="words"))
