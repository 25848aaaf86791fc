"""What a malicious server gets: clients train on a model of its making, through the stack as it stands.

Each attacked round is a question of its own, asked of the honest federation as it stood before that round: the planted
model goes to some clients of the round and to nobody else, and nothing is aggregated. Stages therefore start without
the memory of earlier rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedsec.audit.challenge import MembershipChallenge, public_facts
from fedsec.data.examples import Examples
from fedsec.errors import ConfigurationError
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.population import Population, draw_cohort, standings
from fedsec.federation.server_side import Server
from fedsec.federation.setup import FederationSetup
from fedsec.federation.stages import Stages
from fedsec.federation.wire import Transcript, parties
from fedsec.judges.base import Truth
from fedsec.protocol.compose import check_stack
from fedsec.protocol.events import Event, Topic
from fedsec.protocol.evidence import Evidence, Reconstructions
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import MaliciousServer, Planted
from fedsec.protocol.payload import Plain, in_clear
from fedsec.protocol.stage import Defense
from fedsec.protocol.view import coalition_of, project
from fedsec.randomness import derive_seed, generator

Source = tuple[int, str]


@dataclass
class Planting:
    """What came of the planted models.

    Attributes:
        setup: the federation with the planted architecture; its initial model is the first planted one.
        events: a Broadcast of the planted model per round, and the Uploads of those who trained on it.
        asked: clients that were sent a planted model, once per round.
        refused: who sent nothing, by reason.
        silent: the examples that those hold.
        changed: whether the planted architecture is not the public one.
    """

    setup: FederationSetup
    events: tuple[Event, ...] = ()
    asked: int = 0
    refused: dict[Source, str] = field(default_factory=dict)
    silent: dict[Source, Examples] = field(default_factory=dict)
    changed: bool = False

    @property
    def blocked(self) -> str:
        """Why there is nothing to attack; empty if somebody trained on a planted model."""
        if len(self.refused) < self.asked or not self.asked:
            return ""
        reasons = sorted(set(self.refused.values()))
        return f"{self.asked} of {self.asked} clients refused the planted model ({'; '.join(reasons)})"

    @property
    def sender(self) -> str:
        """What the report says of the position besides what it saw."""
        return f"which sent {self.asked} models of its own making (model control) and"

    @property
    def notes(self) -> list[str]:
        """What the report must say beside the numbers."""
        changed = f", of the changed architecture {self.setup.model.name}" if self.changed else ""
        rows = [f"The server sent {self.asked} models of its own making{changed} (model control)."]
        if self.refused:
            reasons = sorted(set(self.refused.values()))
            text = f"{len(self.refused)} of {self.asked} clients refused the planted model ({'; '.join(reasons)})"
            rows.append(f"{text}; a grey image stands for each of them.")
        return rows

    def told(self, truth: Truth) -> Truth:
        """The truth with the examples of those who sent nothing."""
        return replace(truth, behind={**truth.behind, **self.silent})

    def owing(self, evidence: Evidence) -> Evidence:
        """The evidence with a guess for every client that sent nothing, so that it counts as a target."""
        if not isinstance(evidence, Reconstructions) or not self.refused:
            return evidence
        low, high = self.setup.info.bounds or (0.0, 1.0)
        missing = tuple(self.refused)
        grey = evidence.inputs.new_full((len(missing), *self.setup.info.input_shape), (low + high) / 2)
        labels = evidence.labels
        if labels is not None:
            labels = torch.cat([labels, labels.new_zeros(len(missing))])
        least = float(evidence.confidence.min()) if len(evidence.confidence) else 0.0
        return Reconstructions(
            sources=(*evidence.sources, *missing),
            inputs=torch.cat([evidence.inputs, grey]),
            labels=labels,
            confidence=torch.cat([evidence.confidence, evidence.confidence.new_full((len(missing),), least - 1)]),
        )


def plant(
    setup: FederationSetup,
    stack: tuple[Defense, ...],
    attack: MaliciousServer,
    *,
    position: str,
    transcript: Sequence[Event],
    challenge: MembershipChallenge | None = None,
) -> Planting:
    """Send the attack's models to its victims and collect what they upload.

    Args:
        setup: the honest federation.
        stack: its defenses; `Defense.inspect` is asked first, and a client that refuses sends nothing.
        attack: who plants.
        position: the coalition; the server must be one of it.
        transcript: of the honest federation, with the Broadcasts of the attacked rounds.
        challenge: candidates, for an attack that declares that it knows them.

    Raises:
        NotApplicable: the position does not send models, the stack cannot work with the planted architecture, or no
            client takes part in an attacked round.
    """
    if "server" not in coalition_of(position):
        raise NotApplicable(f"only the sender of the models can plant one, and {position} does not include the server")
    facts = public_facts(setup, stack, attack, challenge=challenge)
    known = _models(setup, transcript, position)
    rounds = sorted(r for r in set(attack.rounds(setup.rounds)) if 0 <= r < setup.rounds)
    planted: dict[int, Planted] = {}
    for number in rounds:
        newest = known[max(r for r in known if r <= number)]
        random = generator(setup.seed, "plant", attack.name, number)
        planted[number] = attack.plant(newest.clone(), facts, generator=random)
    if not planted:
        raise NotApplicable("no round is attacked")
    first = planted[rounds[0]]
    if any(one.model.layout != first.model.layout for one in planted.values()):
        raise ValueError(f"{attack.name} planted several architectures; the events of a view have one")
    changed = first.model is not setup.model and first.model.layout != setup.model.layout
    result = Planting(replace(setup, model=first.model, initial=first.vector), changed=changed)
    _refuse_impossible(stack, result.setup)
    record = Transcript({topic: frozenset(rounds) for topic in (Topic.BROADCAST, Topic.UPLOAD)})
    for number in rounds:
        _round(number, planted[number].vector, setup, stack, attack.victims, transcript, record, result)
    result.events = tuple(record.events)
    if not result.asked:
        raise NotApplicable("no client takes part in an attacked round")
    return result


def _models(setup: FederationSetup, transcript: Sequence[Event], position: str) -> dict[int, Tensor]:
    """The honest global models that the position can read, by round; behind encryption only the initial one."""
    view, _ = project(transcript, position, [Topic.BROADCAST])
    return {0: setup.initial, **{event.round: event.values for event in view.events}}


def _refuse_impossible(stack: tuple[Defense, ...], setup: FederationSetup) -> None:
    found = check_stack(stack, setup.setting(stack), server_optimizer=setup.server.name)
    if found:
        reasons = "; ".join(f"{one.found}: {one.why}" for one in found)
        raise NotApplicable(f"the stack cannot work with the planted architecture {setup.model.name} ({reasons})")


def _previous(transcript: Sequence[Event], initial: Tensor, number: int, client: int) -> Tensor:
    """The newest honest model that a client read before a round."""
    party = f"client:{client}"
    read = [e for e in transcript if e.topic == Topic.BROADCAST and e.round < number and party in e.receivers]
    if not read:
        return initial
    event = max(read, key=lambda e: e.round)
    clear = event.payload if isinstance(event.payload, Plain) else event.opened
    return initial if clear is None else clear.values[0]


def _round(
    number: int,
    vector: Tensor,
    honest: FederationSetup,
    stack: tuple[Defense, ...],
    victims: int,
    transcript: Sequence[Event],
    record: Transcript,
    result: Planting,
) -> None:
    """One attacked round: choose, inspect, train, seal, record."""
    setup = result.setup
    stages = Stages(stack, setup.setting(stack), seed=setup.seed)
    stages.agree(setup.model, setup.initial, Server(setup))
    population = Population.of(setup.index, fraction=0.0, sybils=0, seed=setup.seed)
    drawn = draw_cohort(population, setup.participation, round_index=number, seed=setup.seed)
    stages.participants = tuple(drawn.asked.tolist())
    reach = dict(zip(drawn.answered.tolist(), drawn.effort.tolist(), strict=True))
    shards = {c: setup.shard(c, stages.data_hooks) for c in reach}
    chosen = sorted((c for c in reach if len(shards[c])), key=lambda c: (len(shards[c]), c))[:victims]
    result.asked += len(chosen)
    if not chosen:
        return
    record.record(
        Topic.BROADCAST,
        number,
        step=0,
        sender="server",
        receivers=parties(chosen),
        payload=Plain(vector.unsqueeze(0).clone(), torch.ones(1, dtype=torch.float64)),
    )
    once = any(defense.unit_weights for defense in stack) or setup.weighting != "examples"
    trainer = CohortTrainer(setup.model, setup.local, hooks=stages.local_hooks, device=setup.device)
    places = standings(len(setup.index), seed=setup.seed).tolist()
    with trainer:
        for client in chosen:
            source, shard = (number, f"client:{client}"), shards[client]
            previous = _previous(transcript, honest.initial, number, client)
            reason = stages.refuses(
                vector, previous, shard.examples(), number, client, sent=setup.model, agreed=honest.model
            )
            if not reason:
                limit = None if reach[client] >= 1 else max(1, int(reach[client] * setup.local.steps(len(shard))))
                seed = derive_seed(setup.seed, "train", number, client)
                update = trainer.train(
                    vector, [shard], [seed], max_steps=[limit], round_index=number, standings=[places[client]]
                )
                about = {} if once else {"examples": len(shard)}
                reason = _upload(update, about, number, client, stages, record)
            if reason:
                result.refused[source] = reason
                result.silent[source] = shard.examples()


def _upload(update: Tensor, about: dict[str, int], number: int, client: int, stages: Stages, record: Transcript) -> str:
    """Seal and record one update; why it could not be sent, if it could not."""
    if not bool(update.isfinite().all()):
        return "training on it diverged"
    try:
        weights = torch.tensor([float(about.get("examples", 1))], dtype=torch.float64, device=update.device)
        payload = stages.before_upload(Plain(update, weights), number, (client,), bound=True)
    except ConfigurationError as error:
        return f"the update does not fit the wire format: {error.problems[0].expected}"
    record.record(
        Topic.UPLOAD,
        number,
        step=1,
        sender=f"client:{client}",
        receivers=frozenset({"server"}),
        payload=payload,
        about=about if in_clear(payload) is not None else {},
        opened=stages.peek(payload, number, (client,)),
    )
    return ""
