"""The searches of Carlini and Wagner: Adam on distance plus misreading, each example at its own pace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from fedsec.gradient import input_gradient

from .gradient_ascent import Passes
from .hyperplane import over, size
from .margins import CLEAR, margin

_CHECKS, _PROGRESS = 10, 1e-3
_LARGEST_CONSTANT, _SHRINK = 20.0, 0.9
_FINE, _STRIDE = 2e-3, 0.05
_BETAS, _ADAM_TINY = (0.9, 0.999), 1e-8
_INSIDE = 0.999999


@dataclass(frozen=True)
class Aim:
    """What is asked of a point; ``classes`` are those to be left, or with ``targeted`` to be reached."""

    model: nn.Module
    confidence: float
    targeted: bool
    passes: Passes | None

    def _lead(self, logits: Tensor, classes: Tensor) -> Tensor:
        lead = margin(logits, classes)
        return -lead if self.targeted else lead

    def already(self, x: Tensor, classes: Tensor) -> Tensor:
        """Whether nothing has to be done."""
        self._count(len(x), 0)
        read: Tensor = self.model(x).argmax(-1)
        return (read == classes) == self.targeted

    def reached(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Whether a point is misread as wanted, by more than what another batch size rounds away."""
        return self._lead(logits, classes) > (CLEAR * logits.abs().amax(1)).clamp_min(self.confidence)

    def judge(self, points: Tensor, classes: Tensor) -> Tensor:
        """`reached` of points."""
        self._count(len(points), 0)
        return self.reached(self.model(points), classes)

    def pull(self, points: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``f`` of each point, its gradient, and `reached`. Rounding is added to the confidence."""

        def shortfall(logits: Tensor) -> Tensor:
            wanted = (2 * CLEAR * logits.detach().abs().amax(1)).clamp_min(self.confidence)
            return (wanted - self._lead(logits, classes)).clamp_min(0.0)

        def objective(leaf: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.model(leaf)
            return shortfall(logits), logits

        gradient, logits = input_gradient(objective, points)
        self._count(len(points), len(points))
        return shortfall(logits), torch.nan_to_num(gradient, nan=0.0), self.reached(logits, classes)

    def _count(self, forwards: int, backwards: int) -> None:
        if self.passes is not None:
            self.passes.forwards += forwards
            self.passes.backwards += backwards


@dataclass
class State:
    """A row per example that is not done."""

    row: Tensor
    x: Tensor
    classes: Tensor
    low: Tensor
    high: Tensor
    start: Tensor
    w: Tensor
    first_moment: Tensor
    second_moment: Tensor
    rate: Tensor
    constant: Tensor
    initial: Tensor
    taken: Tensor
    """Steps of the search that goes on."""
    lowest: Tensor
    checked: Tensor
    """Lowest loss of the search, now and at its last check."""
    recent: Tensor
    """Whether there was success since the last check: early on Adam overshoots, whatever the constant."""
    searches: Tensor
    nearest: Tensor
    reach: Tensor
    """Distance of the nearest misread point, and its largest change as a share of half a feature's range."""
    below: Tensor
    above: Tensor
    """The bracket: constants (``l2``) or values of tau (``linf``)."""

    @classmethod
    def at(cls, x: Tensor, classes: Tensor, low: Tensor, high: Tensor, rate: float, constant: float) -> State:
        """The start of every search."""
        none, many = x.new_zeros(len(x)), x.new_full((len(x),), torch.inf)
        half = (high - low) / 2
        inside = torch.where(half > 0, (x - (low + half)) / half, 0.0).clamp(-1.0, 1.0)
        w = torch.atanh(inside * _INSIDE)
        flat, constants = torch.zeros_like(x), torch.full_like(none, constant)
        rows = torch.arange(len(x), device=x.device)
        return cls(
            row=rows,
            x=x,
            classes=classes,
            low=low,
            high=high,
            start=w,
            w=w,
            first_moment=flat,
            second_moment=flat,
            rate=torch.full_like(none, rate),
            constant=constants,
            initial=constants,
            taken=none,
            lowest=many,
            checked=many,
            recent=torch.zeros_like(none, dtype=torch.bool),
            searches=none,
            nearest=many,
            reach=many,
            below=none,
            above=many,
        )

    def of(self, keep: Tensor) -> State:
        """Some rows."""
        return State(*(getattr(self, part.name)[keep] for part in fields(self)))

    def adam(self, gradient: Tensor) -> None:
        """One step against a gradient, every example with the bias correction of its own step."""
        self.taken = self.taken + 1
        fast, slow = _BETAS
        self.first_moment = self.first_moment.lerp(gradient, 1 - fast)
        self.second_moment = (slow * self.second_moment).addcmul_(gradient, gradient, value=1 - slow)
        scale = (self.second_moment / over(1 - slow**self.taken, gradient)).sqrt_().add_(_ADAM_TINY)
        self.w = self.w - over(self.rate / (1 - fast**self.taken), gradient) * self.first_moment / scale

    def renew(self, ended: Tensor) -> None:
        """The next search of some examples, from `start`."""
        wide = over(ended, self.w)
        self.w = torch.where(wide, self.start, self.w)
        self.first_moment = self.first_moment.masked_fill(wide, 0.0)
        self.second_moment = self.second_moment.masked_fill(wide, 0.0)
        self.taken = self.taken.masked_fill(ended, 0.0)
        self.lowest = self.lowest.masked_fill(ended, torch.inf)
        self.checked = self.checked.masked_fill(ended, torch.inf)
        self.recent = self.recent & ~ended


@dataclass(frozen=True)
class Search(ABC):
    """All searches of all examples; a subclass says what distance costs and which search follows."""

    aim: Aim
    limit: int
    steps: int
    every: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", max(self.steps // _CHECKS, 1))

    def run(self, state: State) -> Tensor:
        """The nearest misread point of each example, or its input."""
        found = state.x.clone()
        while len(state.row):
            half = (state.high - state.low) / 2
            tanh = state.w.tanh()
            points = torch.clamp(state.low + half * (1 + tanh), state.low, state.high)
            lack, gradient, reached = self.aim.pull(points, state.classes)
            cost, pull, distance = self.cost(points - state.x, state)
            nearer = reached & (distance < state.nearest)
            if nearer.any():
                found[state.row[nearer]] = points[nearer]
                state.nearest = torch.where(nearer, distance, state.nearest)
                share = torch.where(half > 0, (points - state.x).abs() / half, 0.0).flatten(1).amax(1)
                state.reach = torch.where(nearer, share, state.reach)
            self.noted(state, reached, nearer)
            loss = cost + state.constant * lack
            state.lowest = torch.minimum(state.lowest, loss)
            state.adam((pull + over(state.constant, gradient) * gradient) * half * (1 - tanh * tanh))
            look = state.taken % self.every == 0
            stuck = look & (state.lowest > (1 - _PROGRESS) * state.checked)
            state.checked = torch.where(look, state.lowest, state.checked)
            ended = stuck | (state.taken >= self.steps) | self.at_once(state)
            state.recent = state.recent & ~(look & ~ended)
            if ended.any():
                more = self.follow(state, ended)
                state.rate = torch.where(ended, state.rate.minimum(_STRIDE * state.reach), state.rate)
                state.renew(ended)
                if not more.all():
                    state = state.of(more)
        return found

    @abstractmethod
    def cost(self, delta: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """What each perturbation costs, the gradient of that, and the perturbation's length."""

    @abstractmethod
    def noted(self, state: State, reached: Tensor, nearer: Tensor) -> None:
        """Take note of misread points before the step is made."""

    @abstractmethod
    def follow(self, state: State, ended: Tensor) -> Tensor:
        """Set the next search of the examples whose search has ended; which examples go on."""

    def at_once(self, state: State) -> Tensor:
        """Which searches have reached all that they can."""
        return torch.zeros_like(state.recent)


class Euclidean(Search):
    """Section VI.A: bisection of the constant, each from the input."""

    def cost(self, delta: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """See `Search.cost`."""
        square = delta.flatten(1).square().sum(1)
        return square, 2 * delta, square

    def noted(self, state: State, reached: Tensor, nearer: Tensor) -> None:
        """See `Search.noted`."""
        state.recent = state.recent | reached

    def follow(self, state: State, ended: Tensor) -> Tensor:
        """See `Search.follow`."""
        won, lost = ended & state.recent, ended & ~state.recent
        state.above = torch.where(won, state.constant.minimum(state.above), state.above)
        state.below = torch.where(lost, state.constant.maximum(state.below), state.below)
        between = torch.where(state.above.isfinite(), (state.below + state.above) / 2, 10 * state.constant)
        state.searches = state.searches + ended
        state.constant = torch.where(ended, between, state.constant)
        return state.searches < self.limit


class Largest(Search):
    """Section VI.C: smaller and smaller tau (`State.above`), each from the last misread point."""

    def cost(self, delta: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """See `Search.cost`."""
        if not state.above.isfinite().all():
            state.above = (state.high - state.low).flatten(1).amax(1)
        beyond = delta.abs() - over(state.above, delta)
        pull = torch.where(beyond > 0, delta.sign(), 0.0)
        return beyond.clamp_min(0.0).flatten(1).sum(1), pull, size(delta, "linf")

    def noted(self, state: State, reached: Tensor, nearer: Tensor) -> None:
        """See `Search.noted`."""
        state.recent = state.recent | (nearer & (state.nearest <= state.above))
        state.start = torch.where(over(nearer, state.w), state.w, state.start)

    def at_once(self, state: State) -> Tensor:
        """See `Search.at_once`."""
        return state.recent

    def follow(self, state: State, ended: Tensor) -> Tensor:
        """See `Search.follow`."""
        won, lost = ended & state.recent, ended & ~state.recent
        given_up = lost & (10 * state.constant > _LARGEST_CONSTANT)
        state.below = torch.where(given_up, state.above, state.below)
        state.constant = torch.where(lost, 10 * state.constant, state.constant)
        state.constant = torch.where(given_up, state.initial, state.constant)
        state.rate = torch.where(given_up, state.rate / 2, state.rate)
        state.searches = state.searches + ((won | given_up) & (state.below > 0))
        next_tau = torch.where(state.below > 0, (state.below + state.nearest) / 2, _SHRINK * state.nearest)
        state.above = torch.where(won | given_up, next_tau, state.above)
        close = state.nearest - state.below < _FINE * state.nearest
        return (state.searches < self.limit) & ~(given_up & ~state.nearest.isfinite()) & ~close
