"""Measures claimed token sequences, or sets of tokens, against the sentences behind the update they were read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedsec.data.tokens import PADDING
from fedsec.judges.base import Exposure, Judge, Judgement, Measurement, Truth
from fedsec.protocol.evidence import Evidence, TokenReconstructions
from fedsec.rouge import f1, rouge_l, rouge_n

GALLERY = 8
"""Pairs that are shown, from the best to the worst."""
EXPOSED = 10
"""Clients that are named."""

Sentence = tuple[int, ...]
Source = tuple[int, str]
Claims = Mapping[Source, Sequence[Sentence]]


@dataclass(frozen=True)
class Pair:
    """A true sentence and the claim that is matched to it.

    Attributes:
        source: index of the update.
        true: its tokens without padding.
        found: the claim's; empty if none is left for this sentence.
    """

    source: int
    true: Sentence
    found: Sentence


def without_padding(tokens: Tensor) -> Sentence:
    """The tokens ``(t,)`` that are no padding, in order."""
    return tuple(token for token in tokens.tolist() if token != PADDING)


def match(found: Sequence[Sentence], true: Sequence[Sentence]) -> list[tuple[int, int]]:
    """One-to-one assignment with the largest total ROUGE-L (Hungarian algorithm): pairs of rows."""
    if not found or not true:
        return []
    gain = np.array([[rouge_l(mine, theirs) for theirs in true] for mine in found])
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def pair_up(claims: Claims, behind: Claims) -> list[Pair]:
    """Every true sentence with its claim; claims beyond the number of sentences are pairs with nothing true."""
    pairs: list[Pair] = []
    for number, (source, found) in enumerate(claims.items()):
        true = behind[source]
        partner = {column: row for row, column in match(found, true)}
        pairs += [Pair(number, one, found[partner[i]] if i in partner else ()) for i, one in enumerate(true)]
        taken = set(partner.values())
        pairs += [Pair(number, (), one) for row, one in enumerate(found) if row not in taken and one]
    return pairs


def at_place(pair: Pair) -> float:
    """Share of places with the right token; places that only one of the two has are wrong."""
    same = sum(a == b for a, b in zip(pair.found, pair.true, strict=False))
    return same / max(len(pair.found), len(pair.true), 1)


SCORES: dict[str, tuple[Callable[[Pair], float], str]] = {
    "rouge1": (
        lambda p: rouge_n(p.found, p.true, n=1),
        "Overlap of the words of each true sentence and its claim, F1.",
    ),
    "rouge2": (
        lambda p: rouge_n(p.found, p.true, n=2),
        "Overlap of neighbouring words, F1; sentences of one word are left out.",
    ),
    "rouge_l": (lambda p: rouge_l(p.found, p.true), "Longest common subsequence, F1; pairs are matched on it."),
    "token_accuracy": (at_place, "Share of places of a sentence with the right token."),
    "exact": (lambda p: float(p.found == p.true), "Share of the sentences that were recovered word for word."),
}
"""By name: the score of one pair and what it says."""


def set_scores(claims: Claims, behind: Claims) -> dict[str, list[float]]:
    """Per source: F1, recall and precision of the set of distinct tokens."""
    rows: dict[str, list[float]] = {"token_set_f1": [], "token_recall": [], "token_precision": []}
    for source, found in claims.items():
        mine = {token for one in found for token in one}
        theirs = {token for one in behind[source] for token in one}
        common = len(mine & theirs)
        rows["token_set_f1"].append(f1(common, len(mine), len(theirs)))
        rows["token_recall"].append(common / len(theirs) if theirs else 0.0)
        rows["token_precision"].append(common / len(mine) if mine else 0.0)
    return rows


def by_frequency(public: Sequence[Sentence]) -> Sentence:
    """The tokens of public sentences, the most frequent first."""
    count = Counter(token for one in public for token in one)
    return tuple(sorted(count, key=lambda token: (-count[token], token)))


def guesses(
    behind: Claims, public: Sequence[Sentence], *, ordered: bool, generator: torch.Generator
) -> dict[str, dict[Source, list[Sentence]]]:
    """What an adversary without the view claims, who knows how many sentences there are and public text.

    Random public sentences; or the most frequent public tokens, for every sentence as many as a public sentence has in
    the mean, and for a set as many distinct ones as the random sentences have.
    """
    ranked = by_frequency(public)
    length = round(sum(map(len, public)) / len(public))
    frequent: dict[Source, list[Sentence]] = {}
    drawn: dict[Source, list[Sentence]] = {}
    for source, true in behind.items():
        rows = torch.randint(len(public), (len(true),), generator=generator).tolist()
        drawn[source] = [public[row] for row in rows]
        distinct = len({token for one in drawn[source] for token in one})
        frequent[source] = [ranked[:length]] * len(true) if ordered else [ranked[:distinct]]
    return {"frequent tokens": frequent, "public sentences": drawn}


class TextJudge(Judge):
    """ROUGE, token accuracy and exact sentences after one-to-one matching; F1 of the token set for sets.

    The unit is one sentence behind an attacked update: all of them, so a sentence that nothing is claimed for scores 0,
    and so does a claim beyond their number. Claims are matched to the sentences of their own source by the Hungarian
    algorithm on ROUGE-L, which is fixed beforehand; other scores are read from the same pairs. For a set of tokens the
    unit is one update. The floor is the best of three adversaries without the view: the most frequent public tokens,
    random public sentences, and the placebo: the same claims against other people's sentences. Padding (token 0) is no
    token. The most exposed clients are named by their mean headline score.
    """

    name: ClassVar[str] = "text"
    metrics: ClassVar[tuple[str, ...]] = (
        "rouge1",
        "rouge2",
        "rouge_l",
        "token_accuracy",
        "exact",
        "token_set_f1",
        "token_recall",
        "token_precision",
    )
    summary: ClassVar[str] = (
        "Full success: every sentence behind the update is recovered word for word (every token, for sets);"
        " floor: the best of frequent tokens, public sentences and the same claims on other people's sentences"
    )

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """Measure claimed sentences or sets of tokens.

        Raises:
            TypeError: the evidence is of another kind.
            ValueError: the inputs are no tokens, or a source is not in the truth.
        """
        if not isinstance(evidence, TokenReconstructions):
            raise TypeError(f"the judge text measures TokenReconstructions, not {type(evidence).__name__}")
        if not truth.info.vocabulary:
            raise ValueError("the inputs are no tokens; this judge measures token sequences")
        claims: dict[Source, list[Sentence]] = {}
        for source, tokens in zip(evidence.sources, evidence.tokens, strict=True):
            claims.setdefault(source, []).append(without_padding(tokens))
        missing = [source for source in claims if source not in truth.behind]
        if missing:
            raise ValueError(f"no examples are recorded behind {missing[0]}")
        behind = {source: [without_padding(x) for x in truth.behind[source].x] for source in claims}
        public = [one for one in map(without_padding, truth.decoys.x) if one]
        blind = guesses(behind, public, ordered=evidence.ordered, generator=truth.generator)
        others = guesses(behind, public, ordered=True, generator=truth.generator)["public sentences"]
        floors = [(one, behind) for one in blind.values()] + [(claims, others)]
        judged = _sequences if evidence.ordered else _sets
        return judged(claims, behind, floors, show=truth.info.public)


def _best(floors: Sequence[list[float]]) -> Tensor | None:
    """The observations of the adversary without the view that does best in the mean."""
    means = [sum(one) / len(one) if one else -1.0 for one in floors]
    return _units(floors[int(np.argmax(means))]) if max(means) >= 0 else None


def _units(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _sequences(claims: Claims, behind: Claims, floors: Sequence[tuple[Claims, Claims]], *, show: bool) -> Judgement:
    pairs = pair_up(claims, behind)
    without = [pair_up(mine, theirs) for mine, theirs in floors]
    measurements: list[Measurement] = []
    for name, (score, description) in SCORES.items():
        least = 2 if name == "rouge2" else 0
        own = [pair for pair in pairs if len(pair.true) >= least]
        if not own:
            continue
        measurements.append(
            Measurement(
                name=name,
                statistic="mean",
                units=_units([score(pair) for pair in own]),
                clusters=torch.tensor([pair.source for pair in own]),
                floor_units=_best([[score(pair) for pair in some if len(pair.true) >= least] for some in without]),
                headline=name == "rouge1",
                description=description,
            )
        )
    measurements += _set_measurements(claims, behind, floors, headline="")
    scores = [rouge_n(pair.found, pair.true, n=1) for pair in pairs]
    sources = list(claims)
    lost = sum(not pair.found for pair in pairs)
    notes = [
        f"{len(pairs)} sentences behind {len(sources)} updates, matched one to one on ROUGE-L;"
        f" nothing was claimed for {lost} of them."
    ]
    exhibits = _gallery(pairs, scores) if show else {}
    return Judgement(
        measurements=tuple(measurements),
        exhibits=exhibits,
        notes=tuple(notes),
        exposed=_exposed([sources[pair.source][1] for pair in pairs], scores, "words recovered (ROUGE-1)"),
    )


def _sets(claims: Claims, behind: Claims, floors: Sequence[tuple[Claims, Claims]], *, show: bool) -> Judgement:
    measurements = _set_measurements(claims, behind, floors, headline="token_set_f1")
    scores = set_scores(claims, behind)["token_set_f1"]
    return Judgement(
        measurements=tuple(measurements),
        notes=(f"Sets of tokens claimed for {len(claims)} updates; their order is not claimed.",),
        exposed=_exposed([source[1] for source in claims], scores, "of the token set recovered (F1)"),
    )


_SET_TEXT = {
    "token_set_f1": "F1 of the distinct tokens claimed for an update.",
    "token_recall": "Share of the distinct tokens behind an update that were claimed.",
    "token_precision": "Share of the claimed distinct tokens that stand behind the update.",
}


def _set_measurements(
    claims: Claims, behind: Claims, floors: Sequence[tuple[Claims, Claims]], *, headline: str
) -> list[Measurement]:
    own = set_scores(claims, behind)
    without = [set_scores(mine, theirs) for mine, theirs in floors]
    return [
        Measurement(
            name=name,
            statistic="mean",
            units=_units(values),
            floor_units=_best([one[name] for one in without]),
            headline=name == headline,
            description=_SET_TEXT[name],
        )
        for name, values in own.items()
    ]


def _gallery(pairs: Sequence[Pair], scores: Sequence[float]) -> dict[str, Tensor]:
    """Evenly spaced pairs from the best to the worst, padded with token 0; of the true sentences only."""
    true = [i for i, pair in enumerate(pairs) if pair.true]
    if not true:
        return {}
    order = sorted(true, key=lambda i: (-scores[i], i))
    places = torch.linspace(0, len(order) - 1, min(GALLERY, len(order))).round().long().tolist()
    shown = [order[place] for place in places]
    width = max(max(len(pairs[i].true), len(pairs[i].found)) for i in shown)

    def padded(tokens: Sentence) -> list[int]:
        return [*tokens, *([PADDING] * (width - len(tokens)))]

    return {
        "text/original": torch.tensor([padded(pairs[i].true) for i in shown]),
        "text/reconstruction": torch.tensor([padded(pairs[i].found) for i in shown]),
        "text/score": _units([scores[i] for i in shown]),
    }


def _exposed(senders: Sequence[str], scores: Sequence[float], what: str) -> tuple[Exposure, ...]:
    """Clients by their mean score, highest first; an aggregate exposes nobody by name."""
    by: dict[str, list[float]] = {}
    for sender, score in zip(senders, scores, strict=True):
        if sender != "server":
            by.setdefault(sender, []).append(score)
    means = sorted(((sum(v) / len(v), who) for who, v in by.items()), key=lambda item: (-item[0], item[1]))
    return tuple(Exposure(who, mean, f"{mean:.0%} {what}") for mean, who in means[:EXPOSED])
