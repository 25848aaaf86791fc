"""The judge of canary audits: which claim a bound is held against, with which test, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedsec.epsilon.claims import EVERYONE, OUTSIDERS
from fedsec.epsilon.gaussian import gaussian_epsilon
from fedsec.epsilon.guesses import audit_epsilon
from fedsec.judges.epsilon import EpsilonJudge
from fedsec.protocol.evidence import CanaryScores, MembershipScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.randomness import generator, numpy_generator
from fedsec.statistics.pooling import pool

M = 300


def coins(m: int = M) -> torch.Tensor:
    return torch.rand(m, generator=generator("coins", m)) < 0.5


def scores(mu: float, m: int = M, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, generator=generator("scores", m, seed), dtype=torch.float64) + mu * coins(m)


def truth(claims: tuple[Mapping[str, Any], ...] = (), m: int = M) -> Any:
    return SimpleNamespace(included={i + 10: bool(c) for i, c in enumerate(coins(m))}, claims=claims)


def claim(epsilon: float, **changes: Any) -> dict[str, Any]:
    return {
        "defense": "dp", "epsilon": epsilon, "delta": 1e-3, "unit": "client", "adjacency": "zero-out",
        "accountant": "prv (exact Gaussian composition)", "holds_against": OUTSIDERS, **changes,
    }  # fmt: skip


def judged(mu: float, *claims: Mapping[str, Any], uploads: bool = False) -> tuple[dict[str, Any], str]:
    evidence = CanaryScores(identities=torch.arange(M) + 10, scores=scores(mu), uploads=uploads)
    judgement = EpsilonJudge().measure(evidence, truth(claims))
    assert [m.name for m in judgement.measurements if m.headline] == ["auc"]
    pooled = {m.name: pool([m], generator=numpy_generator("p")) for m in judgement.measurements}
    return pooled, "\n".join(judgement.notes)


def test_the_test_is_the_one_that_the_claim_allows() -> None:
    exact, _ = judged(2.0, claim(9.0))
    assumed = audit_epsilon(scores(2.0), coins(), delta=1e-3, method="gaussian-dp")
    assert exact["epsilon_lower_bound"].value == assumed.value
    assert exact["epsilon_lower_bound"].ceiling == assumed.ceiling
    sampled, _ = judged(2.0, claim(9.0, accountant="prv"))
    free = audit_epsilon(scores(2.0), coins(), delta=1e-3, method="f-dp")
    assert sampled["epsilon_lower_bound"].value == free.value < assumed.value
    nothing, notes = judged(2.0)
    assert nothing["epsilon_lower_bound"].value == audit_epsilon(scores(2.0), coins(), delta=1e-5).value
    assert "No defense here claims an epsilon for clients" in notes


def test_bounds_estimate_and_area_are_those_of_the_mechanism() -> None:
    found, notes = judged(2.0, claim(gaussian_epsilon(2.0, 1e-3)))
    true = gaussian_epsilon(2.0, 1e-3)
    assert 0 < found["epsilon_one_run"].value <= found["epsilon_lower_bound"].value <= true
    assert found["epsilon_estimate"].value == pytest.approx(true, rel=0.25)
    assert found["auc"].value == pytest.approx(0.92, abs=0.03)
    assert "BROKEN" not in notes
    assert f"With {M} canaries this test cannot show an epsilon above" in notes
    assert "more canaries could check it" in notes or found["epsilon_lower_bound"].ceiling > true


@pytest.mark.parametrize(("claimed", "is_broken"), [(0.5, True), (40.0, False)])
def test_a_bound_above_the_claim_is_called_broken(claimed: float, is_broken: bool) -> None:
    found, notes = judged(4.0, claim(claimed))
    assert (found["epsilon_lower_bound"].value > claimed) == is_broken
    assert ("BROKEN: the lower bound" in notes) == is_broken
    assert ("lies above what this test can show" in notes) == (not is_broken)


def test_between_the_two_confidences_it_is_suspect() -> None:
    low = audit_epsilon(scores(4.0), coins(), delta=1e-3, method="gaussian-dp", confidence=0.99).value
    high = audit_epsilon(scores(4.0), coins(), delta=1e-3, method="gaussian-dp").value
    _, notes = judged(4.0, claim((low + high) / 2))
    assert "SUSPECT" in notes
    assert "BROKEN" not in notes


def test_only_covering_claims_about_clients_are_compared() -> None:
    for ignored in (claim(0.1, unit="example"), claim(float("inf")), claim(0.1, delta=None)):
        _, notes = judged(4.0, ignored)
        assert "BROKEN" not in notes
        assert "No defense here" in notes
    _, notes = judged(1.0, claim(9.0, adjacency="replace one client's data"))
    assert "is for any two updates of a client" in notes
    # the smallest that holds counts
    _, notes = judged(4.0, claim(50.0), claim(0.3, defense="small"))
    assert "BROKEN" in notes
    assert "of small, epsilon 0.3" in notes
    server, notes = judged(4.0, claim(0.3), uploads=True)
    assert "epsilon_lower_bound_unclaimed" in server
    assert "BROKEN" not in notes
    everyone, notes = judged(4.0, claim(0.3, holds_against=EVERYONE), uploads=True)
    assert "epsilon_lower_bound" in everyone
    assert "BROKEN" in notes


def test_several_seeds_are_corrected_for_and_never_mixed() -> None:
    judgements = [
        EpsilonJudge().measure(
            CanaryScores(identities=torch.arange(M) + 10, scores=scores(1.5, seed=seed)), truth((claim(9.0),))
        )
        for seed in range(3)
    ]
    bounds = [next(m for m in j.measurements if m.name == "epsilon_lower_bound") for j in judgements]
    pooled = pool(bounds, generator=numpy_generator("p"))
    each = [
        audit_epsilon(scores(1.5, seed=s), coins(), delta=1e-3, method="gaussian-dp", confidence=1 - 0.05 / 3).value
        for s in range(3)
    ]
    assert pooled.seeds == tuple(each)
    assert pooled.value == pooled.low == pooled.high == max(each)
    assert pooled.n == 3 * M
    assert pooled.floor == 0.0
    assert pooled.value < max(pool([one], generator=numpy_generator("p")).value for one in bounds)


def test_bounds_of_several_seeds_cover() -> None:
    """Perfect privacy, five seeds: anything above 0 is wrong."""
    random = numpy_generator("seeds")
    wrong = 0
    for _ in range(100):
        items = []
        for _ in range(5):
            judgement = EpsilonJudge().measure(
                CanaryScores(identities=torch.arange(60) + 10, scores=torch.from_numpy(random.standard_normal(60))),
                SimpleNamespace(
                    included={i + 10: bool(c) for i, c in enumerate(random.integers(2, size=60))}, claims=()
                ),  # type: ignore[arg-type]
            )
            items.append(judgement.measurements[1])
        wrong += pool(items, generator=random).value > 0
    assert wrong <= 5


def test_without_noise_there_is_no_sensible_estimate() -> None:
    evidence = CanaryScores(identities=torch.arange(M) + 10, scores=coins().double() * 30)
    judgement = EpsilonJudge().measure(evidence, truth())
    assert "epsilon_estimate" not in {m.name for m in judgement.measurements}
    assert "Next to nothing is noisy" in " ".join(judgement.notes)
    assert all(m.units.isfinite().all() for m in judgement.measurements)


def test_canaries_of_which_nothing_is_seen() -> None:
    evidence = CanaryScores(identities=torch.arange(M) + 10, scores=torch.zeros(M))
    judgement = EpsilonJudge().measure(evidence, truth())
    found = {m.name: pool([m], generator=numpy_generator("p")).value for m in judgement.measurements}
    assert found["auc"] == 0.5
    assert found["epsilon_lower_bound"] < 0.5
    assert "epsilon_estimate" not in found
    assert "nothing is seen of them" in " ".join(judgement.notes)


def test_refusals() -> None:
    names, judge = torch.arange(M) + 10, EpsilonJudge()
    with pytest.raises(TypeError, match="canary scores"):
        judge.measure(MembershipScores(scores=torch.zeros(3)), truth())
    with pytest.raises(ValueError, match="one per canary"):
        judge.measure(CanaryScores(identities=names, scores=torch.zeros(3)), truth())
    with pytest.raises(ValueError, match="finite"):
        judge.measure(CanaryScores(identities=names, scores=torch.full((M,), torch.nan)), truth())
    with pytest.raises(ValueError, match="not a canary"):
        judge.measure(CanaryScores(identities=names + 1, scores=scores(1.0)), truth())
    few = CanaryScores(identities=torch.tensor([10, 11]), scores=torch.zeros(2))
    with pytest.raises(NotApplicable, match="too few"):
        judge.measure(few, truth())
