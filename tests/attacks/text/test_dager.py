import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.text.dager import Dager
from fedsec.attacks.text.placing import LIKELY, SURE, place_tokens
from fedsec.attacks.text.reading import FIRST, Reader
from fedsec.attacks.text.span import rounding_noise, span_of
from fedsec.models.flat import FlatModel
from fedsec.protocol.outcome import NotApplicable


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_inputs_are_in_the_span_and_others_are_not(seed, many):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(many, 32, generator=draw, dtype=torch.float64)
    gradient = torch.randn(96, many, generator=draw, dtype=torch.float64) @ inputs
    gradient += 1e-7 * torch.randn(96, 32, generator=draw, dtype=torch.float64)
    span = span_of(gradient, noise=1e-7)
    assert span.rank == many
    assert bool(span.contains(inputs, tolerance=1e-9).all())
    assert not bool(span.contains(torch.randn(50, 32, generator=draw, dtype=torch.float64), tolerance=1e-3).any())


def test_noise_alone_spans_nothing_and_too_many_inputs_everything():
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(96, 32, generator=draw, dtype=torch.float64)
    assert span_of(noise, noise=1.0).rank == 0
    assert span_of(
        torch.randn(96, 40, generator=draw).double() @ torch.randn(40, 32, generator=draw).double(), noise=1e-9
    ).full


def test_the_first_check_over_the_whole_vocabulary_gives_the_tokens(make, words):
    scene = make(sizes=(1, 2))
    for who, update in scene.updates.items():
        reader = Reader.of(scene.model, scene.model.vector().double())
        gradient, weight = (scene.model.layout.split(v.double())[FIRST] for v in (update, scene.model.vector()))
        span = span_of(gradient, noise=rounding_noise(gradient, weight))
        given = reader.shallow(torch.arange(scene.info.vocabulary), scene.info.input_shape[0])
        inside = span.contains(given, tolerance=1e-3).any(1)
        assert set(inside.nonzero().flatten().tolist()) == words(scene.held[who])


def test_rows_tell_the_places_of_tokens():
    draw = torch.Generator().manual_seed(0)
    at = torch.randn(9, 32, generator=draw, dtype=torch.float64)
    # token 0 stands at places 0 and 3, in two sentences; the others once
    places = torch.stack([at[0] + at[1], at[2], at[3] + at[4], at[5] + at[6]])
    tokens = torch.stack([at[0] + at[5], at[1], at[2], at[3], at[4], at[6]])
    placed = place_tokens(tokens, places, close=SURE)
    assert placed.home.tolist()[2:5] == [1, 2, 2]
    assert placed.allowed[:, 1].tolist() == [False, False, True, False, False, False]
    assert placed.allowed[:, 2].nonzero().flatten().tolist() == [3, 4]
    assert bool(place_tokens(tokens, places, close=LIKELY).allowed[0, [0, 3]].all())


@pytest.mark.parametrize("layers", [1, 2])
def test_single_sentences_come_back_word_for_word(make, layers):
    scene = make(sizes=(1,) * 6, layers=layers)
    evidence = scene.run(Dager())
    found = scene.measured(evidence)
    assert found["exact"][0] == 1.0
    assert found["rouge1"][1] < 0.5
    assert bool((evidence.confidence == 1.0).all())


def test_a_batch_is_taken_apart(make):
    scene = make(sizes=(3,), width=128, learning_rate=1.0)
    evidence = scene.run(Dager())
    found = scene.measured(evidence)
    assert found["exact"][0] >= 2 / 3
    assert found["rouge1"][0] > 0.9
    proved = [t for t, sure in zip(evidence.tokens, evidence.confidence.tolist(), strict=True) if sure == 1.0]
    true = [tuple(t for t in x if t) for held in scene.held.values() for x in held.x.tolist()]
    assert proved
    assert all(tuple(one.tolist()) in true for one in proved)


def test_a_decoder_is_read_token_by_token(make, characters):
    scene = make(characters, sizes=(1, 4), width=96)
    assert scene.measured(scene.run(Dager()))["exact"][0] == 1.0


def test_clipping_by_norm_changes_nothing(make):
    scene = make(sizes=(1, 1))
    clipped = {who: u / (10 * u.norm()) for who, u in scene.updates.items()}
    assert scene.measured(scene.run(Dager(), updates=clipped, stack=("clip(c=0.1)",)))["exact"][0] == 1.0


def test_several_local_steps_are_read_less_well_but_above_the_floor(make):
    scene = make(sizes=(2, 2), epochs=2, batch_size=1, learning_rate=0.1)
    value, floor = scene.measured(scene.run(Dager(budget=2000)))["rouge1"]
    assert value > floor + 0.2


def test_another_clients_update_gives_the_floor(make):
    scene = make(sizes=(1,) * 10)
    names = list(scene.updates)
    swapped = {who: scene.updates[other] for who, other in zip(names, names[1:] + names[:1], strict=True)}
    value, floor = scene.measured(scene.run(Dager(), updates=swapped))["rouge1"]
    assert value <= floor + 0.1


def test_noise_gives_the_floor(make):
    scene = make(sizes=(1,) * 4)
    draw = torch.Generator().manual_seed(0)
    noise = {who: torch.randn(u.shape, generator=draw) for who, u in scene.updates.items()}
    value, floor = scene.measured(scene.run(Dager(), updates=noise, stack=("dp-local()",)))["rouge1"]
    assert value <= floor + 0.05


def test_refuses_where_the_check_says_nothing(make):
    with pytest.raises(NotApplicable, match="span its whole width"):
        (scene := make(sizes=(20,), width=16)).run(Dager())
    with pytest.raises(NotApplicable, match="rescales"):
        (scene := make(optimizer="adam", learning_rate=0.01)).run(Dager())
    from fedsec.models.recurrent import CharRNN

    model = FlatModel.of(CharRNN(width=4).build(scene.info), task="classification", name="char-rnn")
    with pytest.raises(NotApplicable, match="transformer"):
        Reader.of(model, model.vector())
