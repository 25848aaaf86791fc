"""What a stack noticed: who was dropped and suspected in which round, attackers and honest identities apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsec.judges.base import Measurement, Outcome
from fedsec.randomness import numpy_generator
from fedsec.statistics.intervals import Floats, roc

SHUFFLES = 200
"""Random assignments of groups to honest clients behind the floor of a worst group."""
THIRDS = ("fewest examples", "middle", "most examples")
TRAINING = ("plain training", "defended training")
"""Honest clients outside and within the share that runs the local hooks which not all clients run."""

Table = dict[str, NDArray[Any]]


def detection(attacked: Outcome, honest: Outcome | None = None) -> tuple[Measurement, ...]:
    """How many attacking and how many honest identities a stack dropped and suspected, how soon, and whom it harmed.

    A unit is an identity in a round in which it was heard; one that was not admitted counts as dropped. Units of one
    identity share a cluster. Controlled identities that sleep in a round are on neither side.

    Args:
        attacked: with a `Outcome.watch`; without one nothing is measured.
        honest: the federation without the adversary, whose exclusions are the floor of ``detection_fpr``.
    """
    watch = {name: column.numpy() for name, column in attacked.watch.items()}
    if not watch or not len(watch["round"]):
        return ()
    acting, harmless = _acting(watch), _harmless(watch)
    return (
        *(_caught(acting) if len(acting["round"]) else ()),
        *(_spared(harmless, honest) if len(harmless["round"]) else ()),
        *_suspicion(watch),
    )


def exhibits(attacked: Outcome) -> dict[str, Tensor]:
    """What the report draws: a ROC curve, shares dropped by round, who among the honest was dropped, and when.

    ``roc/fpr`` and ``roc/tpr`` where scores were reported; ``dropped/round``, ``dropped/attackers`` and
    ``dropped/honest`` ``(r,)``, NaN where nobody was heard; ``heard/client``, ``heard/class`` (-1: unknown),
    ``heard/third`` (by size, -1: all alike), ``heard/training`` (by `TRAINING`, -1: all alike) and ``heard/dropped``,
    one row for each honest identity and round;
    ``acting/span`` ``(2,)``, the first and the last round in which an identity attacked.
    """
    watch = {name: column.numpy() for name, column in attacked.watch.items()}
    if not watch or not len(watch["round"]):
        return {}
    found: dict[str, NDArray[Any]] = {}
    placed = _placements(watch)
    if placed is not None:
        found["roc/fpr"], found["roc/tpr"] = roc(placed[0], placed[1])
    rounds = np.unique(watch["round"])
    found["dropped/round"] = rounds
    for name, rows in (("attackers", _acting(watch)), ("honest", _harmless(watch))):
        place = np.searchsorted(rounds, rows["round"])
        heard = np.bincount(place, minlength=len(rounds))
        dropped = np.bincount(place, rows["excluded"], minlength=len(rounds))
        found[f"dropped/{name}"] = np.where(heard > 0, dropped / np.maximum(heard, 1), np.nan)
    harmless, attacked_in = _harmless(watch), _acting(watch)["round"]
    if len(attacked_in):
        found["acting/span"] = np.asarray([attacked_in.min(), attacked_in.max()])
    found |= {"heard/client": harmless["client"], "heard/class": harmless["majority"]}
    found |= {"heard/third": thirds(harmless["client"], harmless["examples"]), "heard/dropped": harmless["excluded"]}
    found["heard/training"] = harmless.get("within", np.full(len(harmless["client"]), -1))
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()}


def thirds(client: NDArray[Any], examples: NDArray[Any]) -> NDArray[Any]:
    """The third of clients by number of examples that each row's client is in: 0 smallest to 2, -1 if all are alike.

    Args:
        client: ``(n,)`` identities.
        examples: ``(n,)`` of the row's client, the same in all its rows.
    """
    if not len(client):
        return np.zeros(0, dtype=np.int64)
    sizes = examples[np.unique(client, return_index=True)[1]]
    low, high = np.quantile(sizes, [1 / 3, 2 / 3], method="lower")
    if sizes.min() == sizes.max():
        return np.full(len(client), -1, dtype=np.int64)
    return np.asarray((examples > low).astype(np.int64) + (examples > high), dtype=np.int64)


def _select(watch: Table, rows: NDArray[np.bool_]) -> Table:
    return {name: column[rows] for name, column in watch.items()}


def _acting(watch: Table) -> Table:
    return _select(watch, watch["acting"] > 0)


def _harmless(watch: Table) -> Table:
    return _select(watch, watch["controlled"] == 0)


def _caught(acting: Table) -> tuple[Measurement, ...]:
    """Of attackers: the share dropped, and how long it took."""
    start, end = int(acting["round"].min()), int(acting["round"].max())
    undetected, dropped_first = _delays(acting)
    ever = np.sort(dropped_first[dropped_first >= 0])
    half = (len(undetected) + 1) // 2
    horizon = float(end - start + 1)
    first = float(ever[0] - start) if len(ever) else horizon
    halfway = float(ever[half - 1] - start) if len(ever) >= half else horizon
    never = f"{horizon:g} where it did not happen in the {horizon:g} rounds of the attack"
    return (
        Measurement(
            name="detection_tpr",
            statistic="mean",
            units=_tensor(acting["excluded"]),
            clusters=torch.from_numpy(acting["client"]),
            floor=0.0,
            description="Share of the attacking identities of a round that the defenses dropped or did not admit",
        ),
        Measurement(
            name="detection_delay",
            statistic="mean",
            units=_tensor(undetected),
            floor=0.0,
            ceiling=float(undetected.max()) or 1.0,
            unit="rounds",
            description="Rounds in which an identity attacked before it was first dropped (all of them if never)",
        ),
        Measurement(
            name="detection_first",
            statistic="mean",
            units=_tensor([first]),
            floor=0.0,
            ceiling=horizon,
            unit="rounds",
            description=f"Rounds from the start of the attack until the first attacker was dropped; {never}",
        ),
        Measurement(
            name="detection_half",
            statistic="mean",
            units=_tensor([halfway]),
            floor=0.0,
            ceiling=horizon,
            unit="rounds",
            description=f"Rounds from the start until half of the attackers had been dropped at least once; {never}",
        ),
    )


def _delays(acting: Table) -> tuple[Floats, NDArray[Any]]:
    """Per attacking identity: rounds it attacked undetected, and the round that first dropped it (-1: none did)."""
    undetected, first = [], []
    order = np.lexsort((acting["round"], acting["client"]))
    client, number, dropped = (acting[name][order] for name in ("client", "round", "excluded"))
    for own in np.split(np.arange(len(client)), np.flatnonzero(np.diff(client)) + 1):
        hits = np.flatnonzero(dropped[own])
        undetected.append(float(hits[0]) if len(hits) else float(len(own)))
        first.append(int(number[own][hits[0]]) if len(hits) else -1)
    return np.asarray(undetected), np.asarray(first)


def _spared(harmless: Table, honest: Outcome | None) -> tuple[Measurement, ...]:
    """Of the honest: the share dropped, whom it hits most, and how many were mostly unheard."""
    before = None
    if honest is not None and honest.watch and len(honest.watch["excluded"]):
        before = honest.watch["excluded"].double()
    clients, row_of = np.unique(harmless["client"], return_inverse=True)
    heard, dropped = np.bincount(row_of), np.bincount(row_of, harmless["excluded"])
    found = [
        Measurement(
            name="detection_fpr",
            statistic="mean",
            units=_tensor(harmless["excluded"]),
            clusters=torch.from_numpy(harmless["client"]),
            floor_units=before,
            floor=None if before is not None else 0.0,
            description="Share of the honest identities of a round that the defenses dropped; the floor is the same "
            "without an attack",
        ),
        Measurement(
            name="honest_harmed",
            statistic="mean",
            units=_tensor(2 * dropped > heard),
            floor=0.0,
            description=f"Share of the {len(clients)} honest identities that were dropped in most of the rounds in "
            "which they were heard",
        ),
    ]
    by_class = _worst(harmless, harmless["majority"])
    if by_class is not None:
        found.append(
            Measurement(
                name="honest_excluded_worst_class",
                statistic="mean",
                units=by_class[0],
                clusters=by_class[1],
                floor=by_class[2],
                description="Share dropped of the honest identities whose most frequent class is the one dropped most; "
                "the floor is the worst class if classes were dealt to clients at random",
            )
        )
    by_size = _worst(harmless, thirds(harmless["client"], harmless["examples"]))
    if by_size is not None:
        found.append(
            Measurement(
                name="honest_excluded_worst_size",
                statistic="mean",
                units=by_size[0],
                clusters=by_size[1],
                floor=by_size[2],
                description="Share dropped of the third of honest identities, by number of examples, that is dropped "
                "most; the floor is the worst third if sizes were dealt to clients at random",
            )
        )
    return (*found, *_by_training(harmless))


def _by_training(harmless: Table) -> tuple[Measurement, ...]:
    """Of honest clients within the share that runs a partial local hook: the share dropped, beside the others'."""
    if "within" not in harmless:
        return ()
    within, outside = harmless["within"] == 1, harmless["within"] == 0
    if not within.any() or not outside.any():
        return ()
    return (
        Measurement(
            name="honest_excluded_within_share",
            statistic="mean",
            units=_tensor(harmless["excluded"][within]),
            clusters=torch.from_numpy(harmless["client"][within]),
            floor_units=_tensor(harmless["excluded"][outside]),
            description="Share dropped of the honest identities that run a local defense which not all clients run "
            "(adversarial training); the floor is that of those that do not",
        ),
    )


def _worst(harmless: Table, group: NDArray[Any]) -> tuple[Tensor, Tensor, float] | None:
    """Rows of the group with the highest share dropped: its units, their clients, and what chance would pick."""
    known = group >= 0
    names = np.unique(group[known])
    if len(names) < 2:
        return None
    rows, member = _select(harmless, known), np.searchsorted(names, group[known])
    clients, first, row_of = np.unique(rows["client"], return_index=True, return_inverse=True)
    heard = np.bincount(row_of).astype(np.float64)
    dropped = np.bincount(row_of, rows["excluded"])
    own = member[first]

    def rates(of: NDArray[Any]) -> Floats:
        return np.asarray(np.bincount(of, dropped) / np.bincount(of, heard), dtype=np.float64)

    worst = member == int(rates(own).argmax())
    random = numpy_generator("who is dropped", len(clients), len(names))
    chance = float(np.mean([rates(random.permutation(own)).max() for _ in range(SHUFFLES)]))
    return _tensor(rows["excluded"][worst]), torch.from_numpy(rows["client"][worst]), chance


def _placements(watch: Table) -> tuple[Floats, NDArray[np.bool_], NDArray[Any]] | None:
    """Scores as places among the honest of the same round, whether the row attacks, and its identity.

    A place is the share of the round's honest identities that are less suspicious, ties counted half. Rules compare
    the updates of one round, and their scores shrink as a training converges: this takes the round out of the
    score (the covariate-adjusted ROC curve of Janes and Pepe, Biometrika 2009). ``None`` without a round in which both
    an attacker and an honest identity have a score.
    """
    rows = _scored(watch)
    kept, places = [], []
    for number in np.unique(rows["round"]):
        here = np.flatnonzero(rows["round"] == number)
        honest = np.sort(rows["score"][here][rows["acting"][here] == 0])
        if not 0 < len(honest) < len(here):
            continue
        score = rows["score"][here]
        below, upto = np.searchsorted(honest, score, "left"), np.searchsorted(honest, score, "right")
        kept.append(here)
        places.append((below + upto) / (2 * len(honest)))
    if not kept:
        return None
    chosen = np.concatenate(kept)
    return np.concatenate(places), rows["acting"][chosen] > 0, rows["client"][chosen]


def _scored(watch: Table) -> Table:
    sides = (watch["acting"] > 0) | (watch["controlled"] == 0)
    return _select(watch, sides & ~np.isnan(watch["score"]))


def _suspicion(watch: Table) -> tuple[Measurement, ...]:
    """How well the reported scores tell attackers from the honest."""
    placed = _placements(watch)
    if placed is None:
        return ()
    places, acting, client = placed
    rows = _scored(watch)
    ranks = np.unique(rows["score"], return_inverse=True)[1]
    sides: Callable[[NDArray[Any]], Tensor] = torch.from_numpy
    return (
        Measurement(
            name="detection_auc",
            statistic="auc",
            units=_tensor(places),
            truths=sides(acting),
            clusters=sides(client),
            floor=0.5,
            unit="",
            description="Chance that an attacker is more suspicious than an honest identity of the same round, ties "
            "counted half",
        ),
        Measurement(
            name="detection_tpr@0.05",
            statistic="tpr@0.05",
            units=_tensor(places),
            truths=sides(acting),
            clusters=sides(client),
            floor=0.05,
            description="Share of the attackers that are more suspicious than 95% of the honest identities of their "
            "round",
        ),
        Measurement(
            name="detection_auc_one_threshold",
            statistic="auc",
            units=_tensor(ranks),
            truths=sides(rows["acting"] > 0),
            clusters=sides(rows["client"]),
            floor=0.5,
            unit="",
            description="The same for scores of all rounds together, as a threshold that is never adjusted sees them",
        ),
    )


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64))
