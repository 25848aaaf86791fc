"""What an adversary is told, and what the judge knows that it is not told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsec.audit.orders import batch_orders
from fedsec.data.examples import Examples
from fedsec.data.properties import resolve
from fedsec.federation.coalition import coin
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.population import Population, draw_cohort
from fedsec.federation.rehearsal import Rehearsal
from fedsec.federation.setup import FederationSetup, whole
from fedsec.federation.stages import Stages
from fedsec.judges.base import Truth
from fedsec.plugin import Plugin
from fedsec.protocol.events import Event, Topic
from fedsec.protocol.facts import Federate, PublicFacts, SimulateMany
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Adversary, Attack
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Defense
from fedsec.protocol.view import View, coalition_of
from fedsec.randomness import derive_seed, generator, numpy_generator
from fedsec.threat import Knowledge

CANDIDATES = 1000
"""Members in question at the most, and as many non-members."""

CLIENTS = 50
"""Clients whose participation is in question at the most, and as many made-up ones."""


def simulator(setup: FederationSetup, stack: tuple[Defense, ...], *, seed: int) -> SimulateMany:
    """Local training as honest clients do it, up to the stage that seals, with draws of the adversary's own."""
    stages = Stages(stack, setup.setting(stack), seed=derive_seed(seed, "simulate"))
    local = dataclasses.replace(setup.local, schedule="constant")  # of no round: at the full rate
    trainer = CohortTrainer(setup.model, local, hooks=stages.local_hooks, device=setup.device)

    def simulate(model: Tensor, shards: Sequence[Examples], draws: Sequence[int]) -> Tensor:
        held = []
        for shard, draw in zip(shards, draws, strict=True):
            for number, hook in enumerate(stages.data_hooks):
                shard = hook.data(shard, generator=generator(seed, "simulate-data", number, draw))
            held.append(whole(shard))
        # who they would be is not known: each stands among the clients at random
        places = [float(numpy_generator(seed, "simulate-standing", draw).random()) for draw in draws]
        updates = trainer.train(model, held, [derive_seed(seed, "simulate", draw) for draw in draws], standings=places)
        weights = torch.tensor([float(len(shard)) for shard in held], dtype=torch.float64)
        return stages.in_clear(Plain(updates, weights), 0, tuple(draws)).values

    return simulate


def participants(setup: FederationSetup) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Clients that uploaded in some round of the honest federation."""
    population = Population.of(setup.index, fraction=0.0, sybils=0, seed=setup.seed)
    seen: set[int] = set()
    for number in range(setup.rounds):
        drawn = draw_cohort(population, setup.participation, round_index=number, seed=setup.seed)
        seen.update(drawn.answered.tolist())
    return np.array(sorted(seen), dtype=np.int64)


@dataclass(frozen=True)
class MembershipChallenge:
    """Candidates, shuffled, and which of them are members.

    Attributes:
        candidates: half members (or so), half never-trained examples of the same pool.
        members: ``(m,)`` bool.
        owners: ``(m,)`` int64, the client that holds each candidate; -1 for non-members and for examples that
            several clients hold.
    """

    candidates: Examples
    members: Tensor
    owners: Tensor | None = None


def membership_challenge(setup: FederationSetup) -> MembershipChallenge | None:
    """Members drawn from clients that took part, non-members from the hold-out of the same pool.

    ``None`` if there is no hold-out, or if clients see transformed examples (the pool's own are then not
    what was trained on).
    """
    if not len(setup.split.holdout) or setup.transforms:
        return None
    random = numpy_generator(setup.seed, "membership")
    rows = [setup.index.rows(int(client)) for client in participants(setup)]
    held = np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.int64)
    count = min(len(held), len(setup.split.holdout), CANDIDATES)
    if count == 0:
        return None
    chosen = random.choice(held, count, replace=False)
    inside = setup.split.clients.take(torch.from_numpy(chosen))
    outside = setup.split.holdout.take(torch.from_numpy(random.choice(len(setup.split.holdout), count, replace=False)))
    order = torch.from_numpy(random.permutation(2 * count))
    mixed = Examples(torch.cat([inside.x, outside.x]), torch.cat([inside.y, outside.y])).take(order)
    owners = torch.from_numpy(np.append(_owners(setup)[chosen], np.full(count, -1)))
    return MembershipChallenge(mixed, (order < count), owners[order])


def _owners(setup: FederationSetup) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The client that holds each example of the pool; -1 if several do, or none."""
    clients = np.repeat(np.arange(len(setup.index), dtype=np.int64), setup.index.sizes())
    owners = np.full(len(setup.split.clients), -1, dtype=np.int64)
    owners[setup.index.order] = clients
    owners[np.bincount(setup.index.order, minlength=len(owners)) > 1] = -1
    return owners


@dataclass(frozen=True)
class ClientChallenge:
    """Data sets of clients, shuffled, and which of them took part.

    Attributes:
        candidates: half (or so) data sets of clients that took part, half never-trained ones.
        participants: ``(c,)`` bool.
    """

    candidates: tuple[Examples, ...]
    participants: Tensor


def client_challenge(setup: FederationSetup) -> ClientChallenge | None:
    """Data sets of clients that took part, and as many of the same sizes cut from the hold-out.

    Each cut has the labels of one of the real data sets, as far as the hold-out has them: with skewed clients a
    plain cut would be told apart by its labels. A hold-out that is smaller than the clients' data leaves a random
    part of each client's data in question. ``None`` as in `membership_challenge`.
    """
    if not len(setup.split.holdout) or setup.transforms:
        return None
    random = numpy_generator(setup.seed, "client membership")
    took_part = [client for client in participants(setup).tolist() if len(setup.index.rows(client))]
    count = min(len(took_part), len(setup.split.holdout), CLIENTS)
    if count == 0:
        return None
    most = len(setup.split.holdout) // count
    free = torch.from_numpy(random.permutation(len(setup.split.holdout)))
    sets: list[Examples] = []
    for client in random.choice(took_part, count, replace=False).tolist():
        rows = random.permutation(setup.index.rows(client))[:most]
        own = setup.split.clients.take(torch.from_numpy(rows))
        taken = _alike(own, setup.split.holdout.take(free), classes=setup.info.task == "classification")
        sets += [own, setup.split.holdout.take(free[taken])]
        left = torch.ones(len(free), dtype=torch.bool)
        left[taken] = False
        free = free[left]
    order = torch.from_numpy(random.permutation(2 * count))
    return ClientChallenge(tuple(sets[i] for i in order.tolist()), order % 2 == 0)


def _alike(own: Examples, pool: Examples, *, classes: bool) -> Tensor:
    """Rows of the pool, as many as ``own`` has, with its labels as far as there are any."""
    taken = torch.zeros(len(pool), dtype=torch.bool)
    for label in torch.unique(own.y).tolist() if classes else ():
        rows = (pool.y == label).nonzero().flatten()
        taken[rows[: int((own.y == label).sum())]] = True
    rest = (~taken).nonzero().flatten()
    taken[rest[: len(own) - int(taken.sum())]] = True
    return taken.nonzero().flatten()


def public_facts(
    setup: FederationSetup,
    stack: tuple[Defense, ...],
    plugin: Attack | Adversary,
    *,
    challenge: MembershipChallenge | None = None,
    clients: ClientChallenge | None = None,
    labels: dict[tuple[int, str], Tensor] | None = None,
    federate: Federate | None = None,
    position: str = "",
) -> PublicFacts:
    """Public facts and exactly the knowledge that a plugin declares; its own data is that of its position's clients."""
    knows = plugin.knows()
    seed = derive_seed(setup.seed, "attacker", plugin.name)
    described = tuple(f"{d.name}{_parameters(d)}" for d in stack)
    rule = next((d.name for d in stack if d.implements("aggregate")), "mean")

    def given(what: Knowledge) -> bool:
        return what in knows

    many = simulator(setup, stack, seed=seed) if given(Knowledge.LOCAL_TRAINING) else None
    return PublicFacts(
        info=setup.info,
        model=setup.model,
        initial=setup.initial.clone(),
        stack=described,
        population=len(setup.index),
        cohort=setup.participation.clients_per_round,
        rounds=setup.rounds,
        server_rate=setup.server.learning_rate,
        knowledge=knows,
        _local=setup.local if given(Knowledge.LOCAL_TRAINING) else None,
        _auxiliary=setup.split.auxiliary if given(Knowledge.AUXILIARY_DATA) and len(setup.split.auxiliary) else None,
        _simulate=(lambda model, shard, draw: many(model, [shard], [draw])[0]) if many else None,
        _simulate_many=many,
        _candidates=challenge.candidates if given(Knowledge.CANDIDATES) and challenge else None,
        _test_inputs=setup.split.test if given(Knowledge.TEST_INPUTS) else None,
        _labels=labels if given(Knowledge.LABELS) else None,
        _order=batch_orders(setup, stack) if given(Knowledge.BATCH_ORDER) else None,
        _federate=federate if given(Knowledge.LOCAL_TRAINING) else None,
        _aggregate=Rehearsal(setup, stack, seed=seed) if given(Knowledge.AGGREGATION_RULE) else None,
        _client_candidates=clients.candidates if given(Knowledge.CLIENT_CANDIDATES) and clients else None,
        rule=rule,
        _own=_own_examples(setup, position) if given(Knowledge.OWN_DATA) else None,
    )


def _own_examples(setup: FederationSetup, position: str) -> Examples | None:
    """What the clients of a position hold together; ``None`` where there is no client among them."""
    clients = sorted(int(party.partition(":")[2]) for party in coalition_of(position) if party.startswith("client:"))
    shards = [setup.shard(client).examples() for client in clients]
    return _joined(shards, setup.split.clients) if shards else None


def _parameters(plugin: Plugin) -> str:
    return "(" + ", ".join(f"{name}={value}" for name, value in plugin.parameters().items()) + ")"


def population_of(setup: FederationSetup, adversary: Adversary | None) -> Population:
    """Everybody in the federation, and whom the adversary replaced or added."""
    fraction, sybils = (adversary.fraction, adversary.identities) if adversary else (0.0, 0)
    return Population.of(setup.index, fraction=fraction, sybils=sybils, seed=setup.seed)


def coalition_position(adversary: Adversary, population: Population) -> str:
    """The position that an adversary observes from: its own parties where its threat model says ``coalition``."""
    if adversary.threat.position != "coalition":
        return adversary.threat.position
    return "+".join(f"client:{i}" for i in np.flatnonzero(population.controlled).tolist())


def examples_behind(
    setup: FederationSetup, stack: tuple[Defense, ...], events: tuple[Event, ...], population: Population
) -> dict[tuple[int, str], Examples]:
    """What each recorded update of an honest client was computed on.

    The sender ``server`` stands for the honest part of the whole cohort.
    """
    hooks = tuple(d for d in stack if d.implements("data"))
    behind: dict[tuple[int, str], Examples] = {}
    for event in events:
        if event.topic == Topic.UPLOAD:
            client = int(event.sender.partition(":")[2])
            if population.controlled[client]:
                continue
            behind[event.round, event.sender] = setup.shard(client, hooks).examples()
        elif event.topic == Topic.AGGREGATE:
            drawn = draw_cohort(population, setup.participation, round_index=event.round, seed=setup.seed)
            honest = drawn.answered[~population.controlled[drawn.answered]]
            shards = [setup.shard(int(client), hooks).examples() for client in honest]
            behind[event.round, event.sender] = _joined(shards, setup.split.clients)
    return behind


def labels_behind(behind: Mapping[tuple[int, str], Examples]) -> dict[tuple[int, str], Tensor]:
    """Labels behind each update as a sorted multiset, for attacks that declare that they know them."""
    return {source: held.y.flatten().sort().values for source, held in behind.items()}


def with_counts(view: View, behind: Mapping[tuple[int, str], Examples]) -> View:
    """The view with the number of examples behind each update, for attacks that declare that they know it."""
    counted = []
    for event in view.events:
        held = behind.get((event.round, event.sender))
        about = dict(event.about)
        if held is not None and event.topic in (Topic.UPLOAD, Topic.AGGREGATE):
            about["examples"] = len(held)
        counted.append(dataclasses.replace(event, about=tuple(sorted(about.items()))))
    return View(view.position, tuple(counted))


def _joined(shards: list[Examples], like: Examples) -> Examples:
    if not shards:
        return like.take([])
    names = shards[0].attributes
    return Examples(
        torch.cat([shard.x for shard in shards]),
        torch.cat([shard.y for shard in shards]),
        {name: torch.cat([shard.attributes[name] for shard in shards]) for name in names},
    )


def property_shares(
    setup: FederationSetup, attack: Attack | Adversary, behind: Mapping[tuple[int, str], Examples]
) -> dict[str, dict[tuple[int, str], float]]:
    """For each property that an attack is about, the share of the examples behind each update that have it.

    The sender ``public`` stands for what all clients hold together, of which the released model tells.

    Raises:
        NotApplicable: the dataset has no such property.
    """
    texts = [*filter(None, [getattr(attack, "property", "")]), *getattr(attack, "properties", ())]
    try:
        asked = resolve(texts, setup.info)
    except ValueError as error:
        raise NotApplicable(str(error)) from error
    rows = torch.from_numpy(setup.index.order).to(setup.split.clients.y.device)
    held = {name: value[rows] for name, value in setup.split.clients.attributes.items()}
    everyone = Examples(rows, rows, held)
    everything = {**behind, (setup.rounds - 1, "public"): everyone}
    found = {one.name: {source: one.share(data) for source, data in everything.items()} for one in asked}
    return {name: {k: v for k, v in shares.items() if v is not None} for name, shares in found.items()}


def truth(
    setup: FederationSetup,
    stack: tuple[Defense, ...],
    attack: Attack | Adversary,
    *,
    events: tuple[Event, ...],
    released: Tensor,
    challenge: MembershipChallenge | None,
    clients: ClientChallenge | None = None,
    population: Population | None = None,
) -> Truth:
    """What only the judge holds; ``population`` is that of the attacked federation, if an adversary took part."""
    population = population or population_of(setup, None)
    audits = isinstance(attack, Adversary) and attack.flips_coins
    behind = examples_behind(setup, stack, events, population)
    shares = property_shares(setup, attack, behind) if attack.judge == "property" else {}
    return Truth(
        info=setup.info,
        model=setup.model,
        released=released,
        initial=setup.initial,
        behind=behind,
        test=setup.split.test,
        decoys=setup.split.holdout if len(setup.split.holdout) else setup.split.test,
        candidates=challenge.candidates if challenge else None,
        members=challenge.members if challenge else None,
        owners=challenge.owners if challenge else None,
        participants=clients.participants if clients else None,
        property_name=next(iter(shares), ""),
        property_share=next(iter(shares.values()), {}),
        property_shares=shares,
        generator=generator(setup.seed, "judge", attack.name),
        included={i: coin(setup.seed, i) for i in np.flatnonzero(population.controlled).tolist()} if audits else {},
        claims=tuple(Stages(stack, setup.setting(stack), seed=setup.seed).claims()) if audits else (),
    )
