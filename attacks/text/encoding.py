"""Sentences of an encoder, one after another: search for the longest, subtract its gradient, search again.

Every token of a sentence changes what a deeper layer is given at every place, so nothing can be extended greedily
(Petrov et al. 2024, section 4.3, enumerate). Here the candidates of each place are narrowed first, assignments are
enumerated if they are few and else improved one place after another, and a sentence that is right is proved to be so:
without its gradient, the rows of its own tokens vanish.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsec.models.flat import Slot

from .placing import LIKELY, SURE, place_tokens
from .reading import FIRST, PERCEPTRON, POSITIONS, TOKENS, Reader
from .span import Span, span_of

ALIKE = (0.25, 0.6, math.inf)
"""How far the gradients at two tokens of one sentence may lie apart, tried in this order."""
LENGTHS = 1.5
"""Factor up to which the size of a row may mislead about the length of its sentence."""
GONE = 5e-3
"""Share of a row below which it counts as used up."""
PROOF = 3.0
"""What is left of the rows of a sentence that was subtracted, against the rounding that must be left."""
ENUMERATED = 4096
"""Assignments that are all tried; more are searched."""
ROUNDED = 3e-5
"""Relative error of a gradient that was computed in float32, with room for deep models."""
SWEEPS, RESTARTS, AGREEMENTS = 6, 2, 10
CERTAIN = 1e-3
"""Distance below which no further start is tried."""
PLAUSIBLE = 0.05
"""Distance above which no sentence is worth subtracting."""


@dataclass
class Batch:
    """A gradient of several sentences, from which found ones are subtracted.

    Attributes:
        reader: the model, in float64.
        scout: the same in float32, for searching.
        gradient: ``(p,)`` in float64, at any scale.
        noise: standard deviation of one entry of the layers' weights.
        row_noise: the same for the token table, whose larger weights round more coarsely.
        tolerance: of the first span check.
        labels: number of classes.
        limit: dimensions of a span at the most, 0 for no limit.
        generator: of random starts.
        budget: sentences that may still be evaluated.
    """

    reader: Reader
    scout: Reader
    gradient: Tensor
    noise: float
    row_noise: float
    tolerance: float
    labels: int
    limit: int
    generator: torch.Generator
    budget: int
    first_rows: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.slots: dict[str, Slot] = {slot.name: slot for slot in self.reader.model.layout.parameters}
        self.first_rows = self.part(TOKENS).norm(dim=1)
        self.first_places = self.part(POSITIONS).norm(dim=1)

    def part(self, name: str) -> Tensor:
        """One tensor of what is left of the gradient."""
        slot = self.slots[name]
        return self.gradient[slot.start : slot.stop].view(slot.shape)

    def span(self, name: str) -> Span:
        """The span of one layer's inputs."""
        return span_of(self.part(name), noise=self.noise, most=self.limit)

    def live(self) -> tuple[Tensor, int]:
        """Tokens that are left ``(n,)``, and the length of the longest sentence."""
        width = self.part(TOKENS).shape[1]
        least = 2 * self.row_noise * width**0.5
        rows = self.part(TOKENS).norm(dim=1)
        tokens = (rows > (GONE * self.first_rows).clamp_min(least)).nonzero().flatten()
        places = self.part(POSITIONS).norm(dim=1) > (GONE * self.first_places).clamp_min(least)
        return tokens[tokens != 0], int(places.nonzero().max()) + 1 if bool(places.any()) else 0

    def without(self, sentence: Tensor) -> Tensor | None:
        """The gradient without one sentence, or ``None`` if it is no part of it.

        The row of a token that occurs in this sentence alone vanishes with it, down to rounding, in all of its numbers;
        so a quarter of its tokens must. Class and scale (learning rate, batch, clipping) are those that these rows say.
        """
        slot, tokens = self.slots[TOKENS], torch.tensor(sorted(set(sentence.tolist())))
        theirs = self.part(TOKENS)[tokens]
        floor = PROOF * (self.row_noise * theirs.shape[1] ** 0.5 + ROUNDED * theirs.norm(dim=1))
        best, most = None, 0
        for label in range(self.labels):
            own = self.reader.gradient(sentence, label).to(self.gradient)
            mine = own[slot.start : slot.stop].view(slot.shape)[tokens]
            scales = (mine * theirs).sum(1) / mine.square().sum(1).clamp_min(1e-300)
            alike = (theirs - scales.unsqueeze(1) * mine).norm(dim=1) < floor
            if not bool(alike.any()):
                continue
            scale = scales[alike].median()
            gone = int(((theirs - scale * mine).norm(dim=1) < floor).sum())
            if float(scale) > 0 and gone > most and gone >= 0.25 * len(tokens):
                best, most = self.gradient - scale * own, gone
        return best


@dataclass(frozen=True)
class Found:
    """A sentence.

    Attributes:
        tokens: ``(t,)``.
        distance: of its deep inputs from the span, root mean square.
        proved: whether its gradient was seen to be part of the update.
    """

    tokens: Tensor
    distance: float
    proved: bool


def unravel(batch: Batch, *, wanted: int, exact: bool) -> list[Found]:
    """Up to ``wanted`` sentences of a batch; those that could be proved first.

    Args:
        batch: the gradient; found sentences are subtracted from it.
        wanted: sentences.
        exact: whether it is the gradient at the model's state, so that a sentence can be subtracted.
    """
    found: list[Found] = []
    while len(found) < wanted:
        guesses: list[Found] = []
        proved = None
        for guess in _guesses(batch):
            guesses.append(guess)
            if exact and guess.distance < PLAUSIBLE:
                rest = batch.without(guess.tokens)
                if rest is not None:
                    batch.gradient = rest
                    proved = Found(guess.tokens, guess.distance, True)
                    break
        if proved is None:
            return found + _distinct(guesses, wanted - len(found))
        found.append(proved)
    return found


def _distinct(guesses: list[Found], many: int) -> list[Found]:
    """The nearest guesses, each with a quarter of its tokens in no nearer one: no sentence twice."""
    kept: list[Found] = []
    for guess in sorted(guesses, key=lambda one: one.distance):
        taken = {token for one in kept for token in one.tokens.tolist()}
        fresh = sum(token not in taken for token in guess.tokens.tolist())
        if len(kept) < many and fresh >= 0.25 * len(guess.tokens):
            kept.append(guess)
    return kept


def _guesses(batch: Batch) -> Iterator[Found]:
    """Sentences around one token after another, those with the fewest possible assignments first."""
    tokens, length = batch.live()
    if not length or not len(tokens):
        return
    rows, places = batch.part(TOKENS)[tokens], batch.part(POSITIONS)[:length]
    shallow, deep = batch.span(FIRST), batch.span(batch.reader.second)
    given = batch.reader.shallow(tokens, length)
    apart = shallow.distance(given)
    allowed = shallow.contains(given, tolerance=batch.tolerance) | (apart <= 1.5 * apart.amin(1, keepdim=True))
    light = Span(deep.basis.float(), deep.strength.float(), deep.noise)
    outside = _outside(batch, tokens, length)
    plans: dict[tuple[tuple[int, ...], ...], list[Tensor]] = {}
    for close in (LIKELY, SURE):
        placed = place_tokens(rows, places, close=close)
        both = allowed & placed.allowed
        # A place that the two leave without any token was misjudged by one of them.
        usable = torch.where(both.any(0), both, torch.where(placed.allowed.any(0), placed.allowed, allowed))
        for anchor, place, reach in _anchors(rows, usable, placed.home, length):
            for alike in ALIKE:
                sets = _sets(rows, usable, placed.home, anchor=anchor, place=place, alike=alike)[:reach]
                if all(len(one) for one in sets):
                    plans.setdefault(tuple(tuple(one.tolist()) for one in sets), sets)
    for sets in sorted(plans.values(), key=lambda one: math.prod(map(len, one))):
        yield Found(*_search(batch, sets, tokens, light, outside), False)
        if batch.budget <= 0:
            return


def _anchors(rows: Tensor, allowed: Tensor, home: Tensor, length: int) -> Iterator[tuple[int, int, int]]:
    """Token, its place, and the length of the sentence to look for; short sentences first, they have few assignments.

    The mean over a sentence's places divides its gradient by its length, so a token's row tells the length of its
    sentence, up to how wrong the model is about it; the scale is taken from the last place, where only the longest
    sentences are.
    """
    last = [int(i) for i in allowed[:, length - 1].nonzero().flatten()]
    size = rows.norm(dim=1)
    sure = [int(i) for i in size.argsort(descending=True, stable=True) if int(home[i]) >= 0]
    longest = [i for i in sure if int(home[i]) == length - 1] or last
    scale = float(size[longest].mean()) * length if longest else 0.0
    for token in sure:
        place, guess = int(home[token]), scale / float(size[token])
        near = [n for n in range(place + 1, length + 1) if guess / LENGTHS <= n <= guess * LENGTHS]
        for n in sorted(near or [min(max(place + 1, round(guess)), length)], key=lambda n: (abs(n - guess), n)):
            yield token, place, n
    for token in last:
        yield token, length - 1, length


def _sets(rows: Tensor, allowed: Tensor, home: Tensor, *, anchor: int, place: int, alike: float) -> list[Tensor]:
    """Tokens per place that may be in one sentence with the anchor.

    The loss of a sentence reaches all its places through the same few numbers, so the gradients at them are alike, and
    those at the places of a sentence of another length or class are not.
    """
    own = rows[anchor]
    share = rows @ own / own.square().sum().clamp_min(1e-300)
    # The row of a token with several places is a sum over sentences; it excludes nothing.
    fits = (
        ((share - 1).abs() < alike) | (home < 0) if int(home[anchor]) >= 0 else torch.ones_like(home, dtype=torch.bool)
    )
    fits[anchor] = True
    sets = [(allowed[:, p] & fits).nonzero().flatten() for p in range(allowed.shape[1])]
    sets[place] = torch.tensor([anchor])
    return sets


@dataclass(frozen=True)
class Outside:
    """The part of first-layer inputs that the span of the perceptron's inputs does not hold.

    What a place passes on is its embedding plus what attention adds, and that sum is in the span. So what the
    embeddings of one sentence have outside it is cancelled by attention, which adds nearly the same at all its places.

    Attributes:
        span: of the first perceptron's inputs.
        tokens: ``(n, t, w)`` what each token has outside at each place.
    """

    span: Span
    tokens: Tensor

    def of(self, hidden: Tensor) -> Tensor:
        """The outside part of centred vectors ``(..., w)``."""
        return hidden - (hidden @ self.span.basis.mT) @ self.span.basis


def _outside(batch: Batch, tokens: Tensor, length: int) -> Outside:
    half = Outside(batch.span(PERCEPTRON), torch.zeros(0))
    return Outside(half.span, half.of(batch.reader.centred(batch.reader.embedded(tokens, length))))


def _agreeing(batch: Batch, sets: list[Tensor], tokens: Tensor, outside: Outside) -> Tensor:
    """Members of the sets ``(t,)`` whose outside parts agree: those of the certain places first, then by iteration."""
    length = len(sets)
    sure = [p for p in range(length) if len(sets[p]) == 1]
    wanted = torch.stack([outside.tokens[sets[p][0], p] for p in sure]).mean(0).expand(length, -1)
    chosen = torch.zeros(length, dtype=torch.int64)
    for _ in range(AGREEMENTS):
        before = chosen
        apart = [(outside.tokens[sets[p], p] - wanted[p]).norm(dim=1) for p in range(length)]
        chosen = torch.stack([sets[p][int(apart[p].argmin())] for p in range(length)])
        if torch.equal(chosen, before):
            break
        wanted = -outside.of(batch.reader.centred(batch.reader.context(tokens[chosen])))
    return chosen


def _search(batch: Batch, sets: list[Tensor], tokens: Tensor, span: Span, outside: Outside) -> tuple[Tensor, float]:
    """The assignment whose deep inputs lie nearest to the span: of all, if they are few, else a local optimum."""
    if math.prod(len(one) for one in sets) <= ENUMERATED:
        every = tokens[torch.cartesian_prod(*sets).view(-1, len(sets))]
        distance = _distances(batch, every, span)
        best = int(distance.argmin())
        return every[best], float(distance[best])
    winner, least = tokens[torch.stack([one[0] for one in sets])], math.inf
    for attempt in range(RESTARTS):
        drawn = torch.stack([one[int(torch.randint(len(one), (1,), generator=batch.generator))] for one in sets])
        sentence = tokens[_agreeing(batch, sets, tokens, outside) if attempt == 0 else drawn]
        value = math.inf
        for _ in range(SWEEPS):
            before = value
            for place in torch.randperm(len(sets), generator=batch.generator).tolist():
                if len(sets[place]) == 1:
                    continue
                tries = sentence.repeat(len(sets[place]), 1)
                tries[:, place] = tokens[sets[place]]
                distance = _distances(batch, tries, span)
                best = int(distance.argmin())
                sentence, value = tries[best], float(distance[best])
            if value > 0.999 * before or batch.budget <= 0:
                break
        if value < least:
            winner, least = sentence, value
        if batch.budget <= 0 or least < CERTAIN:
            break
    return winner, least


def _distances(batch: Batch, sentences: Tensor, span: Span) -> Tensor:
    batch.budget -= len(sentences)
    parts = [
        span.distance(batch.scout.deep(part)).square().mean(1).sqrt()
        for part in torch.tensor_split(sentences, -(-len(sentences) // 512))
    ]
    return torch.cat(parts)
