"""Clipping keeps its bound and finds its fixed point; compression is unbiased where it says so, and loses nothing."""

from __future__ import annotations

import math

import torch

from fedsec.protocol.payload import Kind
from fedsec.selftests.answers import Answer, KnownAnswer, below
from fedsec.selftests.bench import CLIENTS, Bench
from fedsec.selftests.conduct import acts

_DRAWS = 300


def clips(bench: Bench) -> str:
    """A bound on updates, and no noise behind it."""
    if acts(bench):
        return acts(bench)
    if not (bench.has("clip_norm") and bench.defense.emits in (None, Kind.PLAIN)):
        return "it has no `clip_norm`"
    return "its rows are noised after they are clipped" if bench.defense.perturbs else ""


def clip_bound(bench: Bench) -> Answer:
    """Rows of every size: none leaves longer than the bound, and what fits passes."""
    bound = float(bench.defense.parameters()["clip_norm"])
    sizes = bound * torch.tensor([0.0, 1e-9, 0.5, 0.999, 1.001, 2.0, 1e6, 1e30])
    directions = bench.updates(len(sizes), size=1.0)
    directions = directions / directions.norm(dim=1, keepdim=True)
    values = directions * sizes[:, None]
    rows = bench.round(bench.stages(), values).rows
    longest = float(rows.norm(dim=1).max())
    fits = sizes <= bound
    if not torch.isfinite(rows).all():
        return Answer(False, "numbers that are not finite", "finite rows")
    if not torch.equal(rows[fits].float(), values[fits]):
        return Answer(False, "a row inside the bound was changed", "rows inside the bound as they were")
    return below(longest, bound * (1 + 1e-6), "longest row")


def clips_twice(bench: Bench) -> str:
    """Clipping by whatever it is called."""
    return acts(bench) or ("" if bench.defense.family == "clipping" else "it is no clipping")


def idempotent(bench: Bench) -> Answer:
    """Clipping what was clipped changes nothing."""
    once = bench.round(bench.stages(), 100 * bench.updates(), bench.weights()).rows
    twice = bench.round(bench.stages(), once.float(), bench.weights()).rows
    return below(float((once - twice).abs().max()), 0.0, "clipping twice differs by")


def adapts(bench: Bench) -> str:
    """A clipping bound that follows a quantile."""
    if acts(bench):
        return acts(bench)
    return "" if bench.has("quantile") and bench.has("clip_norm") else "its bound follows no quantile"


def fixed_point(bench: Bench) -> Answer:
    """Norms of a fixed law, ten times above and ten times below the first bound: where the bound settles."""
    parameters = bench.defense.parameters()
    quantile, start = float(parameters["quantile"]), float(parameters["clip_norm"])
    rate = float(parameters.get("rate", 0.2))
    clients = 64
    rounds = 60 + min(500, math.ceil(math.log(10) / (rate * min(quantile, 1 - quantile))))
    spread = torch.exp(0.5 * torch.special.ndtri((torch.arange(clients, dtype=torch.float64) + 0.5) / clients))
    settled: list[str] = []
    holds = True
    for factor in (0.1, 10.0):
        norms = start * factor * spread
        wanted = float(torch.quantile(norms, quantile))
        directions = bench.updates(clients)
        values = directions / directions.norm(dim=1, keepdim=True) * norms[:, None].float()
        stages = bench.stages(clients=clients, rounds=rounds)
        for number in range(rounds):
            bench.round(stages, values, number=number)
        told = stages.diagnostics.get(f"{bench.defense.name}.clip_norm", [])
        if len(told) < 40:
            return Answer(False, "it does not report `clip_norm`", "a bound that can be followed")
        ended = math.exp(sum(math.log(max(value, 1e-300)) for value in told[-40:]) / 40)
        settled.append(f"{ended / wanted:.3g} times the quantile from {1 / factor:g} times it")
        holds = holds and abs(math.log(ended / wanted)) < math.log(1.25)
    return Answer(holds, "; ".join(settled), "within 25% of the quantile")


def unbiased(bench: Bench) -> str:
    """A claim to be right on average."""
    if acts(bench):
        return acts(bench)
    return "" if bench.claims.get("estimator") == "unbiased" else "it does not claim to be unbiased"


def right_on_average(bench: Bench) -> Answer:
    """The mean of many decoded rows of one update against the update.

    A coordinate may be off by five standard errors, and by as much as a step that 300 draws may have missed.
    """
    values = bench.updates(1, size=1.0)
    together = values.expand(CLIENTS, -1).clone()
    stages = bench.stages(rounds=_DRAWS)
    means = torch.stack([bench.round(stages, together, number=number).rows.mean(0) for number in range(_DRAWS)])
    error = (means.mean(0) - values[0].double()).abs()
    step = (means - values[0].double()).abs().max()
    allowed = 5 * means.std(0) / math.sqrt(_DRAWS) + 20 * step / _DRAWS
    off = error > allowed
    excess = int(off.sum())
    found = f"{excess} of {len(off)} coordinates off, the worst by {float((error - allowed).max()):.3g} too much"
    return Answer(excess == 0, found if excess else f"right in {len(off)} coordinates", "no coordinate off")


def remembers(bench: Bench) -> str:
    """Error feedback that can be switched on."""
    if acts(bench):
        return acts(bench)
    return "" if bench.has("error_feedback") else "it has no error feedback"


def nothing_lost(bench: Bench) -> Answer:
    """The same update round after round, with error feedback: what is held back must not grow with the rounds."""
    remembering = bench.with_parameters(error_feedback=True)
    values = bench.updates()
    stages = remembering.stages(rounds=160)
    sent = torch.zeros_like(values, dtype=torch.float64)
    held: list[float] = []
    for number in range(160):
        sent += remembering.round(stages, values, number=number).rows
        held.append(float(((number + 1) * values.double() - sent).norm() / values.norm()))
    late, early = max(held[120:]), max(held[40:80])
    return below(late, 1.5 * early + 1.0, "held back after 160 rounds, in updates:")


TESTS = (
    KnownAnswer("clip-bound", "Does no row leave longer than the bound", clips, clip_bound),
    KnownAnswer("clip-twice", "Is clipping what was clipped no change", clips_twice, idempotent),
    KnownAnswer("clip-fixed-point", "Does the bound settle at the quantile that it follows", adapts, fixed_point),
    KnownAnswer("unbiased", "Is it right on average where it says so", unbiased, right_on_average),
    KnownAnswer("error-feedback", "Is nothing lost with error feedback", remembers, nothing_lost),
)
