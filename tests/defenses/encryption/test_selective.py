"""Selective encryption: an exact mean, a public mask, and a view of the open coordinates and nothing else."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from digit_federation import digits
from hypothesis import given
from hypothesis import strategies as st
from sealed_rounds import context, integer_mean, setting
from torch import nn

from fedsec.audit.transcripts import pack, unpack
from fedsec.data.examples import Examples
from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.defenses.encryption.bfv import BFV
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.defenses.encryption.selective import OpenCode, SelectiveEncryption
from fedsec.defenses.encryption.sensitivity import (
    gradient_magnitude,
    label_sensitivity,
    most_sensitive,
    sealed_count,
)
from fedsec.errors import ConfigurationError
from fedsec.federation.mean import mean
from fedsec.federation.rounds import Federation
from fedsec.models.flat import FlatModel
from fedsec.protocol.cohort import Cohort
from fedsec.protocol.compose import check_stack, opening_coalitions
from fedsec.protocol.events import Topic
from fedsec.protocol.payload import Plain
from fedsec.protocol.view import project
from fedsec.randomness import generator

KEYS: dict[str, Any] = {}
WIDE = BFV(bound=4.0, bits=16)
"""A range that no update of these tests leaves."""


def agreed(defense: SelectiveEncryption, model: FlatModel, examples: Examples) -> dict[str, torch.Tensor]:
    """What the stage remembers after everybody agreed."""
    told = replace(
        context(model.layout.size, 1, vault={}), model=model.vector(), agreed=model,
        server=SimpleNamespace(root=lambda count: examples.take(range(count))),
    )  # fmt: skip
    defense.agree(told)
    return told.state


@pytest.fixture(scope="module")
def softmax() -> FlatModel:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return FlatModel.of(nn.Linear(5, 3), task="classification", name="softmax")


@pytest.fixture(scope="module")
def examples() -> Examples:
    random = generator("selective")
    return Examples(torch.randn(20, 5, generator=random), torch.randint(0, 3, (20,), generator=random))


def test_sensitivity_of_a_linear_model_in_closed_form(softmax: FlatModel, examples: Examples) -> None:
    """``d log p_c / dW_jk = (1[j = c] - p_j) x_k``, so its norm over ``c`` is ``|x_k| sqrt((1 - p_j)^2 + 2 p_j^2)``."""
    p = softmax.instance(softmax.vector())(examples.x).softmax(1).double().detach()
    size = ((1 - p) ** 2 + 2 * p**2).sqrt()
    weight = (size[:, :, None] * examples.x.double().abs()[:, None]).mean(0)
    truth = torch.cat([weight.flatten(), size.mean(0)])
    torch.testing.assert_close(label_sensitivity(softmax, softmax.vector(), examples), truth, rtol=1e-5, atol=1e-7)


def test_gradient_magnitude_of_a_linear_model_in_closed_form(softmax: FlatModel, examples: Examples) -> None:
    p = softmax.instance(softmax.vector())(examples.x).softmax(1).double().detach()
    error = (p - nn.functional.one_hot(examples.y, 3)).abs()
    truth = torch.cat([(error[:, :, None] * examples.x.double().abs()[:, None]).mean(0).flatten(), error.mean(0)])
    torch.testing.assert_close(gradient_magnitude(softmax, softmax.vector(), examples), truth, rtol=1e-5, atol=1e-7)


@given(size=st.integers(1, 200), share=st.floats(0.001, 1))
def test_the_most_sensitive_are_chosen(size: int, share: float) -> None:
    sensitivity = torch.rand(size, generator=generator("chosen", size))
    chosen = most_sensitive(sensitivity, share)
    assert int(chosen.sum()) == sealed_count(size, share) >= share * size - 1e-6
    if not bool(chosen.all()):
        assert sensitivity[chosen].min() >= sensitivity[~chosen].max()
    assert sealed_count(30, 0.1) == 3


@pytest.mark.parametrize("by", ["sensitivity", "gradient", "random"])
def test_the_mask_is_the_same_for_everyone(softmax: FlatModel, examples: Examples, by: Any) -> None:
    defense = SelectiveEncryption(share=0.25, by=by)
    one, other = (agreed(defense, softmax, examples)["sealed coordinates"] for _ in range(2))
    assert torch.equal(one, other)
    assert int(one.sum()) == 5


def test_float_buffers_are_always_encrypted(examples: Examples) -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model = FlatModel.of(module, task="classification", name="normed")
    mask = agreed(SelectiveEncryption(share=0.1), model, examples)["sealed coordinates"]
    assert bool(mask[model.layout.trainable :].all())
    assert int(mask[: model.layout.trainable].sum()) == sealed_count(model.layout.trainable, 0.1)


@pytest.mark.parametrize(
    "scheme", [BFV(), BFV(largest_weight=100), CKKS(poly_modulus=4096)], ids=["one", "bfv", "ckks"]
)
def test_the_mean_is_exact_in_both_parts(softmax: FlatModel, examples: Examples, scheme: Any) -> None:
    defense, d = SelectiveEncryption(share=0.3, by="random", scheme=scheme), softmax.layout.size
    state = agreed(defense, softmax, examples)
    mask = state["sealed coordinates"]
    told = context(d, 4, vault=KEYS, state=state)
    weights = torch.ones(4, dtype=torch.float64) if scheme.unit_weights else torch.tensor([3.0, 10, 100, 7]).double()
    update = Plain(0.1 * torch.randn(4, d, generator=generator("both")), weights)
    sealed = defense.seal(update, told)
    assert len(sealed.serialise(1)) == sealed.nbytes(1) == len(sealed.ciphertexts[1]) + 4 * int((~mask).sum()) + 4
    chunks = Cohort([((0, 1), sealed.rows([0, 1])), ((2, 3), sealed.rows([2, 3]))])
    aggregate = mean(chunks, size=d, like=update.values)
    got = defense.open(aggregate, told)
    exact = (weights @ update.values.double()) / weights.sum()
    torch.testing.assert_close(got.values[0][~mask], exact[~mask].float(), rtol=1e-6, atol=1e-8)
    assert float(got.weights[0]) == float(weights.sum())
    if isinstance(scheme, BFV):
        hidden = Plain(update.values[:, mask], weights)
        assert torch.equal(got.values[0][mask], integer_mean(scheme, hidden, told).float())
    else:
        torch.testing.assert_close(got.values[0][mask].double(), exact[mask], rtol=0, atol=2e-6)


@given(data=st.data())
def test_the_code_writes_open_coordinates_only(data: st.DataObject) -> None:
    where = torch.tensor(data.draw(st.lists(st.booleans(), min_size=1, max_size=40)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    row = torch.randn(len(where), generator=generator("code"), dtype=dtype).masked_fill(~where, 0.0)
    code = OpenCode(where)
    assert len(code.encode(row)) == code.nbytes(row)
    assert torch.equal(code.decode(code.encode(row)).to(dtype), row)


def test_nothing_sealed_can_be_read_from_the_wire(softmax: FlatModel, examples: Examples) -> None:
    defense, d = SelectiveEncryption(share=0.5, by="random"), softmax.layout.size
    state = agreed(defense, softmax, examples)
    mask = state["sealed coordinates"]
    values = 0.1 * torch.rand(1, d, generator=generator("wire")) + 0.1
    wire = bytes(defense.seal(Plain(values, torch.ones(1)), context(d, 1, vault=KEYS, state=state)).serialise(0))
    found = [np.float32(value).tobytes() in wire for value in values[0].tolist()]
    assert found == (~mask).tolist()


@pytest.fixture(scope="module")
def trained() -> Any:
    setup = digits(clients=4, rounds=2)
    stack = (SelectiveEncryption(share=0.25, scheme=WIDE),)
    wanted = {topic: frozenset({0, 1}) for topic in (Topic.UPLOAD, Topic.AGGREGATE, Topic.BROADCAST)}
    federation = Federation(setup, stack, wanted=wanted)
    result = federation.run()
    return setup, federation, result


def test_a_view_holds_the_open_coordinates_and_nothing_else(trained: Any) -> None:
    setup, federation, result = trained
    mask = federation.stages._memory[0].state["sealed coordinates"]
    plain = Federation(
        replace(setup, weighting="uniform"), (), wanted={Topic.UPLOAD: frozenset({0}), Topic.AGGREGATE: frozenset({0})}
    ).run()
    truth = {e.sender: e.payload.values[0] for e in plain.events if e.topic == Topic.UPLOAD}
    stored = pack(result.events)
    for events in (result.events, unpack(stored.document, stored.tensors)):
        for position in ("server", "eavesdropper"):
            view, _ = project(events, position, [Topic.UPLOAD])
            assert len(view.events) == 8
            for seen in view.events[:4]:
                assert torch.equal(seen.where, ~mask)
                assert bool((seen.values[mask] == 0).all())
                assert torch.equal(seen.values[~mask], truth[seen.sender][~mask])
        whole, _ = project(events, "server+client:0", [Topic.UPLOAD])
        assert all(seen.where is None for seen in whole.events)
        assert all(float((s.values - truth[s.sender]).abs().max()) <= WIDE.grid.step for s in whole.events[:4])
        outside, _ = project(events, "outsider", [Topic.UPLOAD, Topic.AGGREGATE, Topic.BROADCAST])
        assert not outside.events


def test_the_server_knows_the_open_part_of_the_model(trained: Any) -> None:
    setup, federation, result = trained
    mask = federation.stages._memory[0].state["sealed coordinates"]
    view, _ = project(result.events, "server", [Topic.BROADCAST])
    known, _ = project(result.events, "client:0", [Topic.BROADCAST])
    first, second = view.of(Topic.BROADCAST)
    assert first.where is None
    assert torch.equal(first.values, setup.initial)
    assert torch.equal(second.values[mask], setup.initial[mask])
    torch.testing.assert_close(second.values[~mask], known.of(Topic.BROADCAST)[1].values[~mask])


def test_everything_encrypted_leaves_nothing_open() -> None:
    setup = digits(clients=4, rounds=2)
    wanted = {Topic.UPLOAD: frozenset({0})}
    result = Federation(setup, (SelectiveEncryption(share=1.0, scheme=WIDE),), wanted=wanted).run()
    view, denied = project(result.events, "server", [Topic.UPLOAD])
    assert not view.events
    assert "cannot open" in denied[0].reason
    same = Federation(setup, (WIDE,)).run()
    assert (result.released - same.released).abs().max() < 4 * WIDE.grid.step


def test_bytes_shrink_with_the_share() -> None:
    d = 40_000

    def upload(share: float) -> int:
        defense = SelectiveEncryption(share=share, by="random", scheme=CKKS())
        state = {"sealed coordinates": torch.arange(d) < share * d}
        return defense.seal(Plain(torch.zeros(1, d), torch.ones(1)), context(d, 1, vault=KEYS, state=state)).nbytes(0)

    assert upload(1.0) > 6 * 4 * d
    assert upload(0.1) < 2 * 4 * d


def test_claims_and_coalitions() -> None:
    defense = SelectiveEncryption(share=0.25)
    claims = defense.claims(setting(1000))
    assert claims["open_share"] == 0.75
    assert claims["opened_by"] == "server+client"
    secrets = dict(opening_coalitions([defense]))
    assert secrets["75% of the coordinates of one client's update"] == [["server"], ["eavesdropper"]]
    assert ["client", "server"] in secrets["one client's update"]
    assert not any("coordinates" in secret for secret in dict(opening_coalitions([BFV()])))


def test_planner_refuses_what_cannot_work() -> None:
    assert not check_stack([SelectiveEncryption()], setting(100, public=16))
    assert any("auxiliary" in refusal.instead for refusal in check_stack([SelectiveEncryption()], setting(100)))
    assert not check_stack([SelectiveEncryption(by="random")], setting(100))
    regression = setting(100, public=16, task="regression")
    assert any("by: gradient" in refusal.instead for refusal in check_stack([SelectiveEncryption()], regression))
    assert check_stack([SelectiveEncryption(by="random"), ClipNorm()], setting(100))
    for wrong in (ClipNorm(), SelectiveEncryption()):
        with pytest.raises(ConfigurationError, match="encrypts whole updates"):
            SelectiveEncryption(scheme=wrong)


def test_it_is_an_error_to_skip_the_agreement() -> None:
    with pytest.raises(RuntimeError, match="agreed"):
        SelectiveEncryption().seal(Plain(torch.zeros(1, 3), torch.ones(1)), context(3, 1, vault={}))
    with pytest.raises(ValueError, match="public examples"):
        SelectiveEncryption().agree(context(3, 1, vault={}))
    state = {"sealed coordinates": torch.tensor([True, False, False])}
    alone = BFV().seal(Plain(torch.zeros(1, 1), torch.ones(1)), context(1, 1, vault=KEYS))
    with pytest.raises(TypeError, match="opens what selective-encryption sealed"):
        SelectiveEncryption().open(alone, context(3, 1, vault=KEYS, state=state))
