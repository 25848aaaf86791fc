"""What the attacks by gradient matching share: from victims and public facts to lanes, and back to evidence."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View
from fedsec.threat import Knowledge

from .base import Inversion, claimed_labels, start
from .batchnorm import Statistics, batch_statistics, broadcast_statistics
from .counts import rounded
from .engine import Solution, solve
from .matching import one_hot
from .objective import Matching, Prior
from .observed import noise_ratio, observe, sign_agreement, spread
from .recipe import DISTANCES, Recipe
from .unrolled import Simulation, deal_labels, merge_epochs, refuse_optimizer, step_sizes, unknown_order
from .victims import (
    Victim,
    choose,
    is_gradient,
    layer_spans,
    local_steps,
    mean_step,
    repeated,
    surrogate_gradient,
)

LocalStepsField = Annotated[
    Literal["surrogate", "unrolled", "oracle-order"],
    Field(
        description="several local steps: surrogate matches them as one gradient; unrolled replays them in an order of"
        " the attacker's own; oracle-order is told the victim's batches and labels"
    ),
]
BatchNormField = Annotated[
    Literal["private", "shared", "public"],
    Field(
        description="batch norm: private, by each dummy batch's own statistics; shared, and drawn to the victim's, read"
        " from the update's buffers (one local step); public, by the broadcast's running statistics"
    ),
]
HalvingField = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1)], ...],
    Field(description="shares of the budget after which the worse half of the starting points is dropped"),
]
RoundsField = Annotated[
    int, Field(ge=1, description="rounds of one sender that are matched together, which averages their noise out")
]
NoiseField = Annotated[
    float,
    Field(ge=0, description="added weight of total variation per ratio of public noise to signal in an update"),
]


def public_noise(stack: Sequence[str], updates: Tensor) -> Tensor:
    """Deviation of the noise that the public stack says is in updates ``(l, p)``, per coordinate, ``(l,)``.

    ``noise_multiplier * clip_norm`` of each defense that has them, together; where noise is derived from an epsilon or
    was divided among a cohort, no more than the update itself allows (`spread`). Zero without such a defense.
    """
    power = 0.0
    for defense in stack:
        multiplier = re.search(r"noise_multiplier=([^,)]+)", defense)
        bound = re.search(r"clip_norm=([^,)]+)", defense)
        if multiplier is None:
            continue
        known = multiplier[1] != "None" and bound is not None and bound[1] != "None"
        power += (float(multiplier[1]) * float(bound[1])) ** 2 if known and bound is not None else math.inf
    if power == 0:
        return updates.new_zeros(len(updates))
    return spread(updates).clamp_max(math.sqrt(power))


@dataclass(frozen=True, kw_only=True)
class GradientMatching(Inversion):
    """Optimises dummy batches until what they would have sent is what was seen; one engine, each attack a recipe.

    Knows the public stack: coordinates cut off by clipping are matched up to the cut, layers clipped one by one are
    matched one by one, of sparsified updates what survived is matched, of sign vectors the signs (`observed`), and
    public noise is met with a stronger prior and, on request, with several rounds of one client.
    """

    adaptive_to: ClassVar[frozenset[str]] = frozenset(
        {
            "clipping",
            "homomorphic encryption",
            "robust aggregation",
            "anomaly detection",
            "compression",
            "differential privacy",
        }
    )

    local_steps: LocalStepsField = "surrogate"
    batch_norm: BatchNormField = "private"
    average_rounds: RoundsField = 1

    def rounds(self, total: int) -> range:
        """The first rounds, as many as are matched together at least."""
        return range(min(max(self.first_rounds, self.average_rounds), total))

    def knows(self) -> frozenset[Knowledge]:
        """Oracles only with the parameters that ask for them."""
        extra = set()
        if self.local_steps == "oracle-order":
            extra.add(Knowledge.BATCH_ORDER)
        if self.recipe(exact=True).labels == "oracle":
            extra.add(Knowledge.LABELS)
        return self.threat.knowledge | extra

    @abstractmethod
    def recipe(self, *, exact: bool) -> Recipe:
        """The recipe, given whether the length of the gradient is known."""

    def check(self, facts: PublicFacts) -> None:
        """Raises `NotApplicable` where the attack has no meaning."""
        if facts.model.task != "classification":
            raise NotApplicable("labels are read from the gradient of a classifier; this task is not classification")

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> Reconstructions:
        """Attack the view.

        Raises:
            NotApplicable: the inputs are tokens, the task has no labels that the attack can read, or the local
                training cannot be unrolled.
        """
        self.check(facts)
        several = self.average_rounds > 1
        # Unrolled, only clients of at most `max_examples` examples can be attacked, which are not the first in line
        # where counts are hidden.
        targets = self.targets if self.local_steps == "surrogate" else len(view.events)
        victims = (
            repeated(view, facts, targets=targets, rounds=self.average_rounds)
            if several
            else choose(view, facts, targets=targets)
        )
        if self.local_steps != "surrogate":
            victims = self._replayable(victims, facts)
        return self.collect(victims, facts, generator=generator)

    def _replayable(self, victims: tuple[Victim, ...], facts: PublicFacts) -> tuple[Victim, ...]:
        refuse_optimizer(facts.local)
        single = tuple(victim for victim in victims if victim.trainers == 1)
        if not single:
            raise NotApplicable("an aggregate of several clients is no single local training to unroll")
        small = tuple(victim for victim in single if victim.examples <= self.max_examples)
        if not small:
            least = min(victim.examples for victim in single)
            raise NotApplicable(
                f"local steps are unrolled on all of a client's examples, of which the smallest has {least};"
                f" max_examples is {self.max_examples}"
            )
        return small[: self.targets]

    def attack(
        self, victims: tuple[Victim, ...], size: int, facts: PublicFacts, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Inversion.attack`; victims whose local training has the same steps run as one batch."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, victim in enumerate(victims):
            groups.setdefault(self._steps(victim, facts), []).append(row)
        parts = [
            (rows, self._solve(tuple(victims[row] for row in rows), size, facts, generator=generator))
            for rows in groups.values()
        ]
        order = torch.tensor([row for rows, _ in parts for row in rows]).argsort()
        inputs, labels, match = (torch.cat([part[i] for _, part in parts])[order] for i in range(3))
        return inputs, labels, match

    def _steps(self, victim: Victim, facts: PublicFacts) -> tuple[int, ...]:
        if self.local_steps == "surrogate":
            return ()
        if self.local_steps == "unrolled":
            return step_sizes(victim.examples, facts.local)
        return tuple(len(rows) for rows in facts.order_of(*victim.source).rows)

    def _solve(
        self, victims: tuple[Victim, ...], size: int, facts: PublicFacts, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One batch of lanes: inputs ``(v, size, *)``, labels ``(v, size)`` and the match ``(v,)``, higher is surer."""
        matching, x, recipe, epochs = self.prepare(victims, size, facts, generator=generator)
        solution = solve(matching, x, recipe, bounds=facts.info.bounds or (0.0, 1.0), generator=generator)
        return (*self._claims(matching, solution, epochs, facts), 1 - solution.match)

    def prepare(
        self, victims: tuple[Victim, ...], size: int, facts: PublicFacts, *, generator: torch.Generator
    ) -> tuple[Matching, Tensor, Recipe, int]:
        """The objective of all lanes, their starting points, the recipe and the epochs that inputs are repeated in."""
        exact = not facts.stack and all(self._exact(victim, facts) for victim in victims)
        recipe, local = self.recipe(exact=exact), facts.local
        shape, bounds = tuple(facts.info.input_shape), facts.info.bounds or (0.0, 1.0)
        restarts, many = recipe.restarts, 1 + len(victims[0].later)
        rounds = [(victim, *victim.later) for victim in victims]
        gradient_of = surrogate_gradient if recipe.local_steps == "surrogate" else mean_step

        def lanes(rows: Sequence[Tensor]) -> Tensor:
            return torch.stack(tuple(rows)).repeat_interleave(restarts, 0)

        states = lanes([torch.stack([one.model for one in several]) for several in rounds])
        targets = lanes([torch.cat([gradient_of(one, local) for one in several]) for several in rounds])
        updates = lanes([torch.cat([one.update for one in several]) for several in rounds])
        simulation, epochs, told = self._simulation(victims, facts, lanes=len(states))
        labels = told if told is not None else self._labels(victims, size, facts, recipe, generator=generator)
        total = size * epochs
        unit = recipe.unit or bounds
        drawn = start((len(states), total, *shape), recipe.init, unit, generator=generator).to(states)
        x, fixed = drawn.flatten(1), None
        if labels is None:
            each = () if facts.model.task == "regression" else (len(facts.info.classes),)
            logits = start((len(states), total, *each), "normal", (-2.0, 2.0), generator=generator).to(states)
            x = torch.cat([x, logits.flatten(1)], 1)
        else:
            labels = labels.repeat_interleave(restarts, 0)
            dealt = deal_labels(labels, epochs, generator=generator) if recipe.local_steps == "unrolled" else labels
            regression = facts.model.task == "regression"
            fixed = dealt.to(states) if regression else one_hot(dealt, len(facts.info.classes), states)
        ratio = noise_ratio(updates, public_noise(facts.stack, updates))
        whole = torch.ones_like(victims[0].update, dtype=torch.bool)
        seen = [torch.cat([whole if one.where is None else one.where for one in several]) for several in rounds]
        observed = observe(updates, targets, layer_spans(facts.model), stack=facts.stack, rounds=many, read=lanes(seen))
        signs = observed.signs is not None and bool(observed.signs.all())
        matching = Matching(
            model=facts.model,
            states=states,
            targets=targets,
            labels=fixed,
            size=total,
            input_shape=shape,
            observed=observed,
            distance=sign_agreement if signs else DISTANCES[recipe.distance],
            prior=Prior(
                tv=recipe.tv + recipe.noise_tv * ratio,
                bounds=bounds,
                l2=recipe.l2,
                statistics=recipe.statistics,
                group=recipe.group,
                epochs=recipe.epochs,
                wanted=self._statistics(victims, facts, recipe, states[:, 0]),
                count=epochs,
            ),
            batch_norm=recipe.batch_norm,
            simulation=simulation,
        )
        return matching, x, recipe, epochs

    def _exact(self, victim: Victim, facts: PublicFacts) -> bool:
        return is_gradient(victim, facts.local) or (self.local_steps == "oracle-order" and victim.trainers == 1)

    def _simulation(
        self, victims: tuple[Victim, ...], facts: PublicFacts, *, lanes: int
    ) -> tuple[Simulation | None, int, Tensor | None]:
        """The steps to replay, the epochs that have variables of their own, and labels ``(v, n)`` if they are told."""
        if self.local_steps == "surrogate":
            return None, 1, None
        device = victims[0].model.device
        if self.local_steps == "unrolled":
            simulation, epochs = unknown_order(victims[0].examples, lanes, 1 + len(victims[0].later), facts.local)
            return replace(simulation, rows=tuple(rows.to(device) for rows in simulation.rows)), epochs, None
        orders = [[facts.order_of(*one.source) for one in (victim, *victim.later)] for victim in victims]
        restarts = lanes // len(victims)
        steps = range(len(orders[0][0].rows))
        rows = tuple(
            torch.stack([torch.stack([order.rows[step] for order in several]) for several in orders])
            .repeat_interleave(restarts, 0)
            .to(device)
            for step in steps
        )
        return Simulation(facts.local, rows), 1, torch.stack([several[0].labels for several in orders]).to(device)

    def _labels(
        self,
        victims: tuple[Victim, ...],
        size: int,
        facts: PublicFacts,
        recipe: Recipe,
        *,
        generator: torch.Generator,
    ) -> Tensor | None:
        """Labels ``(v, size)`` fixed beforehand, or ``None`` to optimise them."""
        if recipe.labels == "optimised":
            return None
        if recipe.labels == "oracle":
            told = [self._told(facts.labels_of(*victim.source), size) for victim in victims]
            return torch.stack(told).to(facts.initial.device)
        local = facts.local
        means = [
            torch.stack([surrogate_gradient(one, local) for one in (victim, *victim.later)]).mean(0)
            for victim in victims
        ]
        return claimed_labels(victims, means, size, facts, generator=generator)

    @staticmethod
    def _told(labels: Tensor, size: int) -> Tensor:
        """As many of the true labels as are wanted, in proportion."""
        if len(labels) == size:
            return labels
        counts = rounded(labels.bincount(), size)
        return torch.repeat_interleave(torch.arange(counts.numel()), counts)

    def _statistics(
        self, victims: tuple[Victim, ...], facts: PublicFacts, recipe: Recipe, states: Tensor
    ) -> Statistics:
        """Batch-norm statistics that dummy batches are drawn to, ``(l, c)`` per layer."""
        if recipe.batch_norm == "private" or not recipe.statistics or not facts.model.has_batch_norm:
            return ()
        if recipe.batch_norm == "public":
            return broadcast_statistics(facts.model, states)
        if any(victim.trainers > 1 or local_steps(victim, facts.local) > 1 for victim in victims):
            raise NotApplicable("the statistics of several batches are mixed in the update's buffers")
        moved = torch.stack([victim.buffers for victim in victims]).repeat_interleave(recipe.restarts, 0)
        return batch_statistics(facts.model, states, moved)

    def _claims(self, matching: Matching, solution: Solution, epochs: int, facts: PublicFacts) -> tuple[Tensor, Tensor]:
        inputs, free = matching.split(solution.x)
        if matching.labels is None:
            labels = free if facts.model.task == "regression" else free.argmax(-1)
        else:
            fixed = matching.labels[solution.lane]
            labels = fixed.argmax(-1) if fixed.ndim == 3 else fixed
        if epochs > 1:
            inputs, labels = merge_epochs(inputs, labels, epochs)
        return inputs.clamp(*(facts.info.bounds or (0.0, 1.0))), labels
