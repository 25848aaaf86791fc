"""Carlini and Wagner: the smallest perturbations, by Adam on a weighted sum of distance and misreading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from fedsec.ball import TINY, Norm
from fedsec.gradient import frozen, input_gradient

from .gradient_ascent import Passes
from .hyperplane import box, over, size
from .margins import CLEAR, margin

_CHECKS, _PROGRESS = 10, 1e-3
_LARGEST_CONSTANT, _SHRINK = 20.0, 0.9
_FINE, _STRIDE = 2e-3, 0.05
_TIGHTENINGS = 12
_BETAS, _ADAM_TINY = (0.9, 0.999), 1e-8
_INSIDE = 0.999999


def carlini_wagner(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = torch.inf,
    norm: Norm = "l2",
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    searches: int = 9,
    steps: int = 1000,
    rate: float = 0.01,
    confidence: float = 0.0,
    initial_constant: float = 1e-3,
    generator: torch.Generator | None = None,
    passes: Passes | None = None,
) -> Tensor:
    """The attacks of Carlini and Wagner (IEEE S&P 2017, sections VI.A and VI.C).

    With ``f = max(0, z_y - max z_other + confidence)`` (for a target ``t``: ``max z_other - z_t``) and points
    ``tanh w`` stretched over the bounds, Adam lowers

    - ``l2``: ``|d|_2^2 + c f``. The constant c grows tenfold until the point is misread and is bisected then; every
      constant starts anew at ``x``.
    - ``linf``: ``c f + sum max(0, |d_i| - tau)``, from the last misread point. The constant grows until a misread
      point lies within tau, up to 20; tau is then nine tenths of its distance.

    What is not as in the paper: constants, stops, steps and moments of Adam are an example's own, so its path does not
    depend on its batch, it goes on to its next constant at once and it leaves the batch when it is done. A search
    stops where a tenth of its steps has not lowered its best loss by a thousandth. The rate falls to a twentieth of
    the perturbation found so far, if that is less. In ``linf`` the constant grows tenfold, not twofold, and the first
    tau that fails is not the end: tau is then bisected, to two thousandths or ``searches`` times, at half the rate
    after each failure. At the end the perturbation is scaled (``linf``: cut) to the boundary by bisection.

    Args:
        model: inputs to logits ``(b, C)``, C at least 2; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: distance beyond which a misread point does not count, in units of the inputs.
        norm: ``l2`` or ``linf``, in which the perturbation is small.
        bounds: lowest and highest value of an input, finite: numbers, or tensors that broadcast to ``x``. A feature
            whose bounds are equal is never touched.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one.
        searches: ``l2``: constants per example. ``linf``: values of tau after the first that fails.
        steps: of Adam per constant, at the most. A fifth of the steps at five times the rate costs a fifth, for
            perturbations about half a percent longer on a small CNN.
        rate: of Adam, in units of w, which are about half the range of a feature: bounds that are dozens of times as
            wide as the perturbation need a smaller one.
        confidence: by how much the wrong logit shall lead.
        initial_constant: the first c.
        generator: not used: nothing is drawn.
        passes: counts what it costs.

    Returns:
        ``(b, *shape)`` inputs within the bounds: the nearest misread point found, by more than rounding, or the input
        itself where it is misread already and where none was found.

    Raises:
        ValueError: another norm, bounds that are not finite, or no search or step.
    """
    if norm not in ("l2", "linf"):
        raise ValueError(f"Carlini and Wagner's attack is here for l2 and linf, not for {norm}")
    if searches < 1 or steps < 1:
        raise ValueError(f"at least one search of one step is needed, not {searches} of {steps}")
    x = x.detach()
    low, high = box(bounds, x)
    if not (low.isfinite().all() and high.isfinite().all()):
        raise ValueError("the change of variables needs finite bounds")
    aim = _Aim(model, confidence, targets is not None, passes)
    classes = y if targets is None else targets
    search = _Euclidean if norm == "l2" else _Largest
    found = x.clone()
    with frozen(model), torch.no_grad():
        left = (~aim.already(x, classes)).nonzero()[:, 0]
        if not len(left):
            return found
        state = _State.at(x[left], classes[left], low[left], high[left], rate, initial_constant)
        points = search(aim, searches, steps).run(state)
        points = _tightened(aim, x[left], points, classes[left], norm)
        inside = size(points - x[left], norm) <= eps
        found[left[inside]] = points[inside]
    return found


@dataclass(frozen=True)
class _Aim:
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
class _State:
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
    def at(cls, x: Tensor, classes: Tensor, low: Tensor, high: Tensor, rate: float, constant: float) -> _State:
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

    def of(self, keep: Tensor) -> _State:
        """Some rows."""
        return _State(*(getattr(self, part.name)[keep] for part in fields(self)))

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
class _Search(ABC):
    """All searches of all examples; a subclass says what distance costs and which search follows."""

    aim: _Aim
    limit: int
    steps: int
    every: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", max(self.steps // _CHECKS, 1))

    def run(self, state: _State) -> Tensor:
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
    def cost(self, delta: Tensor, state: _State) -> tuple[Tensor, Tensor, Tensor]:
        """What each perturbation costs, the gradient of that, and the perturbation's length."""

    @abstractmethod
    def noted(self, state: _State, reached: Tensor, nearer: Tensor) -> None:
        """Take note of misread points before the step is made."""

    @abstractmethod
    def follow(self, state: _State, ended: Tensor) -> Tensor:
        """Set the next search of the examples whose search has ended; which examples go on."""

    def at_once(self, state: _State) -> Tensor:
        """Which searches have reached all that they can."""
        return torch.zeros_like(state.recent)


class _Euclidean(_Search):
    """Section VI.A: bisection of the constant, each from the input."""

    def cost(self, delta: Tensor, state: _State) -> tuple[Tensor, Tensor, Tensor]:
        square = delta.flatten(1).square().sum(1)
        return square, 2 * delta, square

    def noted(self, state: _State, reached: Tensor, nearer: Tensor) -> None:
        state.recent = state.recent | reached

    def follow(self, state: _State, ended: Tensor) -> Tensor:
        won, lost = ended & state.recent, ended & ~state.recent
        state.above = torch.where(won, state.constant.minimum(state.above), state.above)
        state.below = torch.where(lost, state.constant.maximum(state.below), state.below)
        between = torch.where(state.above.isfinite(), (state.below + state.above) / 2, 10 * state.constant)
        state.searches = state.searches + ended
        state.constant = torch.where(ended, between, state.constant)
        return state.searches < self.limit


class _Largest(_Search):
    """Section VI.C: smaller and smaller tau (`_State.above`), each from the last misread point."""

    def cost(self, delta: Tensor, state: _State) -> tuple[Tensor, Tensor, Tensor]:
        if not state.above.isfinite().all():
            state.above = (state.high - state.low).flatten(1).amax(1)
        beyond = delta.abs() - over(state.above, delta)
        pull = torch.where(beyond > 0, delta.sign(), 0.0)
        return beyond.clamp_min(0.0).flatten(1).sum(1), pull, size(delta, "linf")

    def noted(self, state: _State, reached: Tensor, nearer: Tensor) -> None:
        state.recent = state.recent | (nearer & (state.nearest <= state.above))
        state.start = torch.where(over(nearer, state.w), state.w, state.start)

    def at_once(self, state: _State) -> Tensor:
        return state.recent

    def follow(self, state: _State, ended: Tensor) -> Tensor:
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


def _tightened(aim: _Aim, x: Tensor, points: Tensor, classes: Tensor, norm: Norm) -> Tensor:
    """Perturbations scaled, or in ``linf`` cut, as far as the points stay misread."""
    delta = points - x
    length = size(delta, norm)
    inner, outer, found = torch.zeros_like(length), length, points
    for _ in range(_TIGHTENINGS):
        radius = (inner + outer) / 2
        tried = x + _within(delta, radius, length, norm)
        reached = aim.judge(tried, classes) & (radius < length)
        found = torch.where(over(reached, x), tried, found)
        inner, outer = torch.where(reached, inner, radius), torch.where(reached, radius, outer)
    return found


def _within(delta: Tensor, radius: Tensor, length: Tensor, norm: Norm) -> Tensor:
    wide = over(radius, delta)
    if norm == "linf":
        return delta.maximum(-wide).minimum(wide)
    return delta * over(radius / length.clamp_min(TINY), delta)
