"""Client momentum: the recurrence, whose memory is whose, and what it does to noise."""

import torch

from fedsec.defenses.aggregation.centre_rules import CenteredClipping
from fedsec.defenses.aggregation.client_momentum import ClientMomentum
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, EnforcedBy, RoundContext
from fedsec.randomness import generator

LAYOUT = Layout((Slot("w", (4,), 0, 4, True),))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "momentum"))


def context(clients, state):
    return RoundContext(
        round=0, rounds=5, clients=clients, layout=LAYOUT, population=20, cohort=10.0, sampling="all", seed=1,
        state=state,
    )  # fmt: skip


def send(defense, clients, values, state):
    return defense.seal(Plain(values, torch.arange(1.0, len(values) + 1)), context(clients, state))


def test_each_client_averages_its_own_updates_whoever_comes_with_it():
    defense, state = ClientMomentum(beta=0.75), {}
    rounds = [((4, 7, 9), normal(3, 4, seed=1)), ((9, 2), normal(2, 4, seed=2)), ((2, 4, 9), normal(3, 4, seed=3))]
    held = {}
    for clients, values in rounds:
        before = values.clone()
        result = send(defense, clients, values, state)
        for row, client in enumerate(clients):
            update = values[row]
            held[client] = update if client not in held else 0.25 * update + 0.75 * held[client]
            torch.testing.assert_close(result.values[row], held[client])
        assert result.weights.tolist() == list(range(1, len(clients) + 1))
        assert torch.equal(values, before)


def test_a_past_of_zero_takes_a_share_of_the_first_update():
    beta, state, values = 0.75, {}, [normal(2, 4, seed=seed) for seed in range(3)]
    held = torch.zeros(2, 4)
    for update in values:
        held = (1 - beta) * update + beta * held
        sent = send(ClientMomentum(beta=beta, start="zero"), (3, 8), update, state).values
        torch.testing.assert_close(sent, held)


def test_chunks_do_not_matter():
    defense, whole, parts = ClientMomentum(), {}, {}
    for seed in range(3):
        values = normal(5, 4, seed=seed)
        together = send(defense, (0, 1, 2, 3, 4), values, whole).values
        apart = torch.cat(
            [send(defense, (0, 1), values[:2], parts).values, send(defense, (2, 3, 4), values[2:], parts).values]
        )
        assert torch.equal(together, apart)


def test_without_past_nothing_is_done():
    values = normal(3, 4)
    state = {}
    for seed in range(2):
        values = normal(3, 4, seed=seed)
        assert torch.equal(send(ClientMomentum(beta=0.0), (0, 1, 2), values, state).values, values)


def test_the_noise_of_honest_clients_shrinks_and_their_aim_stays():
    """Of independent noise the share (1 - b) / (1 + b) of the variance is left."""
    defense, state, aim = ClientMomentum(beta=0.9), {}, torch.ones(4)
    for seed in range(120):
        sent = send(defense, tuple(range(200)), aim + normal(200, 4, seed=seed), state).values
    torch.testing.assert_close(sent.mean(dim=0), aim, atol=0.06, rtol=0)
    assert 0.8 * 0.1 / 1.9 < float(sent.var(dim=0).mean()) < 1.25 * 0.1 / 1.9


def test_a_controlled_client_does_not_run_it():
    assert ClientMomentum().enforcement == EnforcedBy.CLIENT


def push(beta):
    """How far four of twenty clients, who hide in the spread of what the others send, move centered clipping."""
    momentum, rule, sealed, centre = ClientMomentum(beta=beta), CenteredClipping(tau=5.0), {}, {}
    moved = []
    for number in range(80):
        honest = send(momentum, tuple(range(16)), normal(16, 4, seed=number), sealed).values
        bad = honest.mean(dim=0) - 1.5 * honest.std(dim=0)
        ctx = context(tuple(range(20)), centre)
        cohort = Cohort([(ctx.clients, Plain(torch.cat([honest, bad.repeat(4, 1)]), torch.ones(20)))])
        moved.append(rule.aggregate(cohort, ctx).values[0])
    return float(torch.stack(moved[30:]).mean(dim=0).norm())


def test_centered_clipping_behind_it_holds_off_attacks_that_hide_in_the_noise():
    """The honest aim is 0, and what a hidden push reaches shrinks with the noise (Karimireddy et al. 2021)."""
    assert push(0.9) < 0.5 * push(0.0)
