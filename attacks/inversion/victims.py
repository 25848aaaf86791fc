"""Whom to attack and what their updates say: from events to gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    round: int
    sender: str
    update: Tensor
    model: Tensor
    examples: int
    trainers: int

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
    """The victims of one attack.

    The model of a round is its broadcast; where the position cannot read it, the newest older model that it can
    (the initial one at worst), which makes every gradient-matching attack weaker and never stronger.

    Raises:
        NotApplicable: the inputs are tokens, or the view holds no update.
    """
    if facts.info.bounds is None:
        raise NotApplicable("the inputs are tokens; this attack reconstructs real-valued inputs")
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
        )
        for event in most_exposed(view.of(topic), targets)
    )


def layer_spans(model: FlatModel) -> tuple[slice, ...]:
    """Trainable coordinates of each layer, in order."""
    spans = (span for _, span in model.layout.layers())
    return tuple(span for span in spans if span.stop <= model.layout.trainable)


def local_steps(victim: Victim, local: LocalTraining) -> int:
    """Local steps behind an update; those of a client of mean size for an aggregate."""
    return max(1, local.steps(max(1, round(victim.examples / victim.trainers))))


def surrogate_gradient(victim: Victim, local: LocalTraining) -> Tensor:
    """``(p,)`` the mean gradient along the local training, ``-update / (learning_rate * steps)``.

    With one local step of ``sgd`` (or ``momentum``, which starts at rest) this is exactly the gradient of the mean
    loss at the global model. With several it is a cheap surrogate: the parameters moved in between; unrolling
    the local steps (Geiping et al. 2020, section 6) is a stronger threat model and is not done here. The
    per-coordinate scaling of ``adagrad``, ``rmsprop`` and ``adam`` is not undone. Weight decay is subtracted.
    """
    gradient = victim.update / (-local.learning_rate * local_steps(victim, local))
    if local.weight_decay:
        gradient = gradient - local.weight_decay * victim.model[: gradient.numel()]
    return gradient


def is_gradient(victim: Victim, local: LocalTraining) -> bool:
    """Whether `surrogate_gradient` is the exact gradient (for an aggregate: of equally large clients)."""
    return local_steps(victim, local) == 1 and local.optimizer in {"sgd", "momentum"}
