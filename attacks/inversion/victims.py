"""Whom to attack and what their updates say: from events to gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen, View

WANTS = (Topic.UPLOAD, Topic.AGGREGATE)


@dataclass(frozen=True, kw_only=True)
class Victim:
    """One update under attack.

    Attributes:
        round: the round, counted from 0.
        sender: who sent it; ``server`` for an aggregate.
        update: ``(p,)`` trainable part of local minus global model.
        model: ``(d,)`` global model that the local training started from.
        examples: examples behind the update.
        trainers: clients whose training the update averages.
        buffers: ``(d - p,)`` float buffers of local minus global model (batch-norm statistics).
        later: updates of the same sender in further rounds, which are matched together with this one.
        where: ``(p,)`` bool, coordinates that were read; ``None``: all were.
    """

    round: int
    sender: str
    update: Tensor
    model: Tensor
    examples: int
    trainers: int
    buffers: Tensor = field(default_factory=lambda: torch.zeros(0))
    later: tuple[Victim, ...] = ()
    where: Tensor | None = None

    @property
    def source(self) -> tuple[int, str]:
        """The event, as evidence names it."""
        return self.round, self.sender


def examples_behind(event: Seen) -> int:
    """Examples behind an update: what the event says, else its weight (1 where a stage hides the numbers)."""
    return max(1, dict(event.about).get("examples", round(event.weight)))


def most_exposed(events: Sequence[Seen], targets: int) -> tuple[Seen, ...]:
    """The updates with the fewest examples behind them, each sender once before any sender twice.

    Earlier rounds first, because an untrained model's gradients say more about the examples.
    """
    order = sorted(events, key=lambda event: (examples_behind(event), event.round))
    met: dict[str, int] = {}
    ranked: list[tuple[int, Seen]] = []
    for event in order:
        ranked.append((met.get(event.sender, 0), event))
        met[event.sender] = met.get(event.sender, 0) + 1
    return tuple(event for _, event in sorted(ranked, key=lambda item: item[0])[:targets])


def choose(view: View, facts: PublicFacts, *, targets: int) -> tuple[Victim, ...]:
    """The victims of an attack that reconstructs real-valued inputs; see `victims`.

    Raises:
        NotApplicable: the inputs are tokens, or the view holds no update.
    """
    if facts.info.bounds is None:
        raise NotApplicable("the inputs are tokens; this attack reconstructs real-valued inputs")
    return victims(view, facts, targets=targets)


def victims(view: View, facts: PublicFacts, *, targets: int) -> tuple[Victim, ...]:
    """The updates with the fewest examples behind them, of uploads or else of aggregates.

    The model of a round is its broadcast; where the position cannot read it, the newest older model that it can
    (the initial one at worst), which makes every gradient-matching attack weaker and never stronger.

    Raises:
        NotApplicable: the view holds no update.
    """
    topic = next((topic for topic in WANTS if view.of(topic)), None)
    if topic is None:
        raise NotApplicable("no update is in the view")
    models = {0: facts.initial, **{event.round: event.values for event in view.of(Topic.BROADCAST)}}
    size = facts.model.layout.trainable
    return tuple(
        Victim(
            round=event.round,
            sender=event.sender,
            update=event.values[:size],
            model=models[max(known for known in models if known <= event.round)],
            examples=examples_behind(event),
            trainers=1 if topic == Topic.UPLOAD else max(1, facts.cohort),
            buffers=event.values[size:],
            where=None if event.where is None else event.where[:size],
        )
        for event in most_exposed(view.of(topic), targets)
    )


def repeated(view: View, facts: PublicFacts, *, targets: int, rounds: int) -> tuple[Victim, ...]:
    """Victims with several of their rounds, oldest first: one per sender, those with the fewest examples first.

    Raises:
        NotApplicable: see `choose`; no sender was seen in as many rounds, or the aggregates are of changing cohorts.
    """
    victims = choose(view, facts, targets=len(view.events))
    if any(victim.trainers > 1 for victim in victims) and facts.cohort < facts.population:
        raise NotApplicable("each round's aggregate is of another cohort; no batch is seen in several rounds")
    by_sender: dict[str, list[Victim]] = {}
    for victim in victims:
        by_sender.setdefault(victim.sender, []).append(victim)
    found = []
    for several in by_sender.values():
        if len(several) >= rounds:
            first, *later = sorted(several, key=lambda victim: victim.round)[:rounds]
            found.append(replace(first, later=tuple(later)))
    if not found:
        raise NotApplicable(f"no sender is seen in {rounds} rounds")
    return tuple(found[:targets])


def layer_spans(model: FlatModel) -> tuple[slice, ...]:
    """Trainable coordinates of each layer, in order."""
    spans = (span for _, span in model.layout.layers())
    return tuple(span for span in spans if span.stop <= model.layout.trainable)


def local_steps(victim: Victim, local: LocalTraining) -> int:
    """Local steps behind an update; those of a client of mean size for an aggregate."""
    return max(1, local.steps(max(1, round(victim.examples / victim.trainers))))


def mean_step(victim: Victim, local: LocalTraining) -> Tensor:
    """``(p,)`` what the optimizer subtracted per step and unit of learning rate."""
    rate = local.in_round(victim.round).learning_rate
    return victim.update / (-rate * local_steps(victim, local))


def surrogate_gradient(victim: Victim, local: LocalTraining) -> Tensor:
    """``(p,)`` the mean gradient along the local training, ``-update / (learning_rate * steps)``.

    With one local step of ``sgd`` (or ``momentum``, which starts at rest) this is exactly the gradient of the mean
    loss at the global model. With several it is a cheap surrogate: the parameters moved in between; to unroll the
    local steps is a stronger threat model (`fedsec.attacks.inversion.unrolled`). The per-coordinate scaling of
    ``adagrad``, ``rmsprop`` and ``adam`` is not undone. Weight decay is subtracted.
    """
    gradient = mean_step(victim, local)
    if local.weight_decay:
        gradient = gradient - local.weight_decay * victim.model[: gradient.numel()]
    return gradient


def is_gradient(victim: Victim, local: LocalTraining) -> bool:
    """Whether `surrogate_gradient` is the exact gradient (for an aggregate: of equally large clients)."""
    return local_steps(victim, local) == 1 and local.optimizer in {"sgd", "momentum"}
