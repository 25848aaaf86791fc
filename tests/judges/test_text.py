import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.judges.base import Truth
from fedsec.judges.text import TextJudge, match, pair_up
from fedsec.models.flat import FlatModel
from fedsec.protocol.evidence import MembershipScores, TokenReconstructions
from fedsec.randomness import generator
from fedsec.rouge import rouge_l

INFO = DatasetInfo(
    name="words",
    summary="Random words",
    task="classification",
    input_shape=(6,),
    classes=("a", "b"),
    bounds=None,
    modality="text",
    public=True,
    vocabulary=50,
)
sentence = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)


def drawn(count, seed):
    draw = generator(seed, "words")
    x = torch.randint(1, 50, (count, 6), generator=draw)
    x = x * (torch.arange(6) < torch.randint(2, 7, (count, 1), generator=draw))
    return Examples(x, torch.zeros(count, dtype=torch.int64))


def truth(*, sources=5, examples=3):
    model = FlatModel.of(torch.nn.Linear(2, 2), task="classification", name="linear")
    return Truth(
        info=INFO,
        model=model,
        released=model.vector(),
        initial=model.vector(),
        behind={(0, f"client:{c}"): drawn(examples, c) for c in range(sources)},
        test=drawn(5, 50),
        decoys=drawn(200, 51),
        candidates=None,
        members=None,
        property_name="",
        property_share={},
        generator=generator(0, "judge"),
    )


def claims(pairs, *, ordered=True):
    return TokenReconstructions(
        sources=tuple(source for source, _ in pairs),
        tokens=tuple(torch.as_tensor(tokens, dtype=torch.int64) for _, tokens in pairs),
        ordered=ordered,
        confidence=torch.zeros(len(pairs)),
    )


def measured(evidence, t):
    return {m.name: m for m in TextJudge().measure(evidence, t).measurements}


@settings(deadline=None, max_examples=25)
@given(st.lists(sentence, min_size=1, max_size=4), st.lists(sentence, min_size=1, max_size=4))
def test_matching_is_the_best_of_all_assignments(found, true):
    total = sum(rouge_l(found[i], true[j]) for i, j in match(found, true))
    few, many = sorted((len(found), len(true)))
    turned = len(found) > len(true)
    options = (list(enumerate(order)) for order in itertools.permutations(range(many), few))
    gains = [sum(rouge_l(found[j if turned else i], true[i if turned else j]) for i, j in one) for one in options]
    assert total == pytest.approx(max(gains))


def test_all_of_it_in_any_order_is_full_success():
    t = truth()
    every = [(source, x) for source, held in t.behind.items() for x in held.x.flip(0)]
    found = measured(claims(every), t)
    for name in ("rouge1", "rouge2", "rouge_l", "token_accuracy", "exact", "token_set_f1"):
        assert float(found[name].units.mean()) == 1.0
        assert float(found[name].floor_units.mean()) < 0.6
    assert [m.name for m in found.values() if m.headline] == ["rouge1"]


def test_sentences_left_out_and_claims_too_many_count_as_failures():
    t = truth(sources=1)
    (source,) = t.behind
    own = list(t.behind[source].x)
    one = measured(claims([(source, own[0])]), t)
    assert one["rouge1"].units.tolist() == [1.0, 0.0, 0.0]
    flood = measured(claims([(source, x) for x in [*own, torch.tensor([49, 48])]]), t)
    assert flood["rouge1"].units.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert flood["exact"].units.tolist() == [1.0, 1.0, 1.0, 0.0]


def test_each_claim_is_used_once():
    pairs = pair_up({(0, "a"): [(1, 2, 3)]}, {(0, "a"): [(1, 2, 3), (1, 2, 3)]})
    assert [pair.found for pair in pairs] == [(1, 2, 3), ()]


def test_words_in_the_wrong_order_have_all_words_and_no_place():
    t = truth(sources=1, examples=1)
    (source,) = t.behind
    own = t.behind[source].x[0]
    own = torch.arange(1, 6)
    t.behind[source].x[0] = torch.tensor([1, 2, 3, 4, 5, 0])
    found = measured(claims([(source, own.roll(1))]), t)
    assert float(found["rouge1"].units[0]) == 1.0
    assert float(found["token_accuracy"].units[0]) == 0.0
    assert float(found["exact"].units[0]) == 0.0
    assert float(found["rouge2"].units[0]) == pytest.approx(3 / 4)


def test_other_peoples_sentences_are_the_floor():
    t = truth(sources=40, examples=4)
    names = list(t.behind)
    wrong = [(source, x) for i, source in enumerate(names) for x in t.behind[names[i - 1]].x]
    found = measured(claims(wrong), t)["rouge1"]
    assert float(found.units.mean()) <= float(found.floor_units.mean()) + 0.05


def test_sets_are_judged_by_their_f1():
    t = truth(sources=2)
    first, second = t.behind
    own = t.behind[first].x.unique()
    own = own[own != 0]
    half = own[: len(own) // 2]
    found = measured(claims([(first, own), (second, half[:0])], ordered=False), t)
    assert found["token_set_f1"].headline
    assert found["token_set_f1"].units.tolist() == [1.0, 0.0]
    assert "rouge1" not in found


def test_the_exhibit_and_the_exposed():
    t = truth()
    every = [(source, x) for source, held in t.behind.items() for x in held.x]
    judged = TextJudge().measure(claims(every[:-3]), t)
    original, copy = judged.exhibits["text/original"], judged.exhibits["text/reconstruction"]
    assert original.dtype == copy.dtype == torch.int64
    assert torch.equal(original, copy)
    assert judged.exposed[0].score == 1.0
    assert len(judged.exposed) == 4


def test_refuses_other_evidence_and_unknown_sources():
    t = truth()
    with pytest.raises(TypeError, match="TokenReconstructions"):
        TextJudge().measure(MembershipScores(scores=torch.zeros(1)), t)
    with pytest.raises(ValueError, match="no examples are recorded"):
        TextJudge().measure(claims([((3, "client:9"), [1])]), t)
