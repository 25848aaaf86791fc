"""Sums of hidden rows: right to the claimed resolution, whoever came, and nothing at all otherwise."""

from __future__ import annotations

import torch

from fedsec.errors import FedsecError
from fedsec.protocol.payload import Masked, Plain
from fedsec.selftests.answers import Answer, KnownAnswer, below
from fedsec.selftests.bench import CLIENTS, Bench


def hidden(bench: Bench) -> str:
    """Sealed or masked rows."""
    return "" if bench.hides else "it leaves rows in clear"


def right_sum(bench: Bench) -> Answer:
    """The opened mean against the weighted mean in float64."""
    done = bench.round(bench.stages(), bench.updates(), bench.weights())
    total = float(done.given.weights.sum())
    if abs(done.weight - total) > 1e-6 * total:
        return Answer(False, f"a total weight of {done.weight:g}", f"{total:g}")
    error = float((done.mean - done.right).abs().max())
    # float32 in, float32 out
    return below(error, bench.resolution * (1 + 1e-6) + 1e-7, "largest error of the mean", unit="(resolution)")


def sum_of_rows(bench: Bench) -> Answer:
    """The opened sum against the rows opened one by one: the sum is exact, whatever single rows were rounded to."""
    stages, weights = bench.stages(), bench.weights()
    values = bench.updates().double()
    stages.participants = tuple(range(CLIENTS))
    if bench.defense.unit_weights:
        weights = torch.ones_like(weights)
    sealed = stages.before_upload(Plain(values, weights), 0, stages.participants, bound=True)
    alone = [stages.peek(sealed.rows([row]), 0, (row,)) for row in range(CLIENTS)]
    if any(row is None for row in alone):
        return Answer(False, "a row that its own openers cannot read", "rows that open")
    wanted = sum(row.values[0].double() * float(row.weights[0]) for row in alone if row is not None)
    weight = sum(float(row.weights[0]) for row in alone if row is not None)
    done = bench.round(bench.stages(), values, weights)
    found = done.mean * done.weight
    error = float((found - torch.as_tensor(wanted)).abs().max())
    scale = float(torch.as_tensor(wanted).abs().max())
    return below(error, 1e-12 * max(scale, weight), "largest difference of the sum from the sum of single rows")


def one_client(bench: Bench) -> Answer:
    """A round in which one client came gives its row, or nothing."""
    try:
        done = bench.round(bench.stages(), bench.updates(), bench.weights(), answered=[3])
    except (FedsecError, PermissionError) as error:
        return Answer(True, f"refused: {type(error).__name__}", "the row, or nothing")
    if done.weight == 0.0:
        empty = bool((done.mean == 0).all())
        return Answer(empty, "nothing opened" if empty else "numbers of weight 0", "the row, or nothing")
    return below(float((done.mean - done.right).abs().max()), bench.resolution + 1e-7, "error of a single row")


def dropouts(bench: Bench) -> Answer:
    """Clients that vanish before they upload: the sum of those who stayed, or nothing."""
    tolerated = bench.number("dropouts_tolerated")
    wrong: list[str] = []
    opened = 0
    for gone in range(CLIENTS):
        stages = bench.stages(seed=gone)
        try:
            done = bench.round(stages, bench.updates(), bench.weights(), answered=range(gone, CLIENTS))
        except (FedsecError, PermissionError):
            continue
        if done.weight == 0.0:
            if bool((done.mean != 0).any()):
                wrong.append(f"{gone} gone: numbers of weight 0")
            elif tolerated is not None and gone <= tolerated:
                wrong.append(f"{gone} gone: nothing, although {tolerated:g} are tolerated")
            continue
        opened = gone
        error = float((done.mean - done.right).abs().max())
        if error > bench.resolution + 1e-7 or abs(done.weight - float(done.given.weights.sum())) > 1e-6:
            wrong.append(f"{gone} gone: off by {error:.2g}")
    found = "; ".join(wrong) or f"right with up to {opened} of {CLIENTS} gone, nothing with more"
    return Answer(not wrong, found, "the sum of those who stayed, or nothing")


def vanishing(bench: Bench) -> str:
    """Masked rows of a defense that simulates clients that vanish later."""
    return masked(bench) or ("" if bench.has("vanish") else "it has no `vanish`")


def later_dropouts(bench: Bench) -> Answer:
    """Clients that vanish after their row arrived: the sum of all rows that arrived, or nothing."""
    wrong: list[str] = []
    recovered: list[str] = []
    for share in (0.1, 0.25, 0.5, 0.9):
        one = bench.with_parameters(vanish=share)
        done = one.round(one.stages(), bench.updates(), bench.weights())
        if done.weight == 0.0:
            if bool((done.mean != 0).any()):
                wrong.append(f"{share:.0%} gone: numbers of weight 0")
            continue
        recovered.append(f"{share:.0%}")
        error = float((done.mean - done.right).abs().max())
        if error > bench.resolution + 1e-7 or abs(done.weight - float(done.given.weights.sum())) > 1e-6:
            wrong.append(f"{share:.0%} gone: off by {error:.2g}")
    found = "; ".join(wrong) or f"right with {', '.join(recovered) or 'none'} gone, nothing with more"
    return Answer(not wrong, found, "the sum of the rows that arrived, or nothing")


def threshold(bench: Bench) -> Answer:
    """Who opens one masked row, as the payload itself says it, against the claim."""
    stages = bench.stages()
    done = bench.round(stages, bench.updates(), bench.weights())
    (sent,) = done.sent
    if not isinstance(sent, Masked):
        return Answer(False, f"a {sent.kind} payload", "a masked one")
    one = sent.rows([0])
    sharers = sorted(one.sharers[0] if one.sharers else one.group)
    needed = len(sharers) - 1 if one.threshold is None else one.threshold
    besides = {"server"} - set(sharers)
    few, enough = frozenset({*besides, *sharers[: needed - 1]}), frozenset({*besides, *sharers[:needed]})
    claimed = bench.number("threshold")
    agrees = claimed is None or claimed == needed
    holds = agrees and not one.opens(few) and one.opens(enough)
    found = f"{needed - 1} of {len(sharers)} open it: {one.opens(few)}; {needed}: {one.opens(enough)}"
    return Answer(holds, found, f"no and yes{'' if agrees else f'; claimed is a threshold of {claimed:g}'}")


def masked(bench: Bench) -> str:
    """Masked rows."""
    return "" if bench.defense.emits == "masked" else "it masks nothing"


TESTS = (
    KnownAnswer("sum", "Is the opened mean that of the rows, to the claimed resolution", hidden, right_sum),
    KnownAnswer("sum-of-rows", "Is the opened sum exactly the sum of the rounded rows", hidden, sum_of_rows),
    KnownAnswer("one-client", "Does a round with one client give its row or nothing", hidden, one_client),
    KnownAnswer("dropouts", "Do clients that vanish leave the right sum or nothing", masked, dropouts),
    KnownAnswer(
        "later-dropouts", "Do clients that vanish later leave the right sum or nothing", vanishing, later_dropouts
    ),
    KnownAnswer("collusion-threshold", "Do fewer than the threshold open nothing", masked, threshold),
)
