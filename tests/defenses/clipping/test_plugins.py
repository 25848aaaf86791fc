"""Where clipping acts, and whom it binds."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fedsec import registry
from fedsec.defenses.clipping.plugins import ClipLayer, ClipNorm, ClipValue
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.compose import acts_on_arrival, seals
from fedsec.protocol.payload import Masked, Plain
from fedsec.protocol.stage import EnforcedBy, RoundContext, Setting
from fedsec.randomness import generator

LAYOUT = Layout((Slot("a.weight", (4,), 0, 4, True), Slot("b.weight", (2,), 4, 6, True)))
SETTING = Setting(
    population=4, cohort=4, rounds=1, sampling="all", layout=LAYOUT, local_steps=1, batch_size=None,
    has_batch_norm=False, task="classification", bounds=None, stack=(),
)  # fmt: skip
PLUGINS = [ClipNorm, ClipValue, ClipLayer]


def context() -> RoundContext:
    return RoundContext(
        round=0, rounds=1, clients=(0, 1, 2), layout=LAYOUT, population=3, cohort=3, sampling="all", seed=1
    )


def payload() -> Plain:
    values = torch.randn(3, 6, generator=generator("plugins")) * torch.tensor([[0.0], [0.01], [50.0]])
    return Plain(values, torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_acts_at_exactly_one_end(plugin: type[ClipNorm | ClipValue | ClipLayer]) -> None:
    update = payload()
    for where, enforcement in (("client", EnforcedBy.CLIENT), ("server", EnforcedBy.SERVER)):
        defense = plugin(c=1.0, enforced_by=where)
        assert defense.enforcement == enforcement
        assert acts_on_arrival(defense) == (where == "server")
        assert seals(defense) == (where == "client")
        active, idle = (defense.seal, defense.receive) if where == "client" else (defense.receive, defense.seal)
        assert idle(update, context()) is update
        told = context()
        result = active(update, told)
        assert isinstance(result, Plain)
        assert torch.equal(result.weights, update.weights)
        assert torch.equal(result.values[:2], update.values[:2])
        assert not torch.equal(result.values[2], update.values[2])
        assert 0 < told.report["clipped_share"] <= 1


def test_shares() -> None:
    told = context()
    ClipNorm(c=1.0).seal(payload(), told)
    assert told.report["clipped_share"] == pytest.approx(1 / 3)


def test_server_cannot_clip_what_it_cannot_read() -> None:
    class _NoScheme:
        pass

    masked = Masked((b"",), _NoScheme(), frozenset())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="put clip-norm before sealing"):
        ClipNorm(c=1.0, enforced_by="server").receive(masked, context())


def test_named_layers() -> None:
    update = payload()
    result = ClipLayer(c=0.5, layers=("b",)).seal(update, context())
    assert isinstance(result, Plain)
    assert torch.equal(result.values[:, :4], update.values[:, :4])
    assert result.values[2, 4:].norm() == pytest.approx(0.5, rel=1e-5)
    ((found, instead),) = ClipLayer(layers=("b", "nope")).problems(SETTING)
    assert "nope" in found
    assert "a, b" in instead
    assert not ClipLayer().problems(SETTING)


def test_does_not_help_inside_the_bound() -> None:
    """A small poisoned update passes unchanged, and its sign is never touched."""
    small = Plain(-payload().values * 1e-3, torch.ones(3))
    result = ClipNorm(c=1.0, enforced_by="server").receive(small, context())
    assert isinstance(result, Plain)
    assert torch.equal(result.values, small.values)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_spec_round_trip(plugin: type[ClipNorm | ClipValue | ClipLayer]) -> None:
    defense = plugin(c=0.3, enforced_by="server")
    assert defense.spec()["name"] == plugin.name
    assert dataclasses.replace(defense) == defense


def test_the_short_name_does_the_same() -> None:
    short, long = registry.get("defenses", "clip"), registry.get("defenses", "clip-norm")
    assert long is ClipNorm
    assert issubclass(short, ClipNorm)
    given = payload()
    assert torch.equal(short(c=1.0).seal(given, context()).values, long(c=1.0).seal(given, context()).values)
