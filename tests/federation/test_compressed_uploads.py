"""What compression saves is in the ledger, and the model still learns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.defenses.compression.compression import Compression
from fedsec.defenses.compression.low_rank import LowRank
from fedsec.defenses.compression.plugins import Sign, TopK
from fedsec.defenses.compression.quantisation import QSGD, Quantize8Bit
from fedsec.defenses.compression.sparsification import Prune, RandomK
from fedsec.defenses.perturbation.soteria import Soteria
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup


def test_the_ledger_counts_compressed_bytes(make_setup: Callable[..., FederationSetup]) -> None:
    setup = make_setup(rounds=1)
    d = setup.model.layout.size
    dense = Federation(setup).run().ledger
    assert dense.upload_bytes == dense.uploads * (d + 1) * 4
    signed = Federation(setup, (Sign(),)).run()
    assert signed.ledger.upload_bytes == signed.ledger.uploads * (4 + -(-d // 8) + 4)
    assert signed.diagnostics["sign.size_share"] == pytest.approx(signed.ledger.upload_bytes / dense.upload_bytes)
    sparse = Federation(setup, (TopK(share=0.01),)).run().ledger
    assert sparse.upload_bytes == sparse.uploads * (4 + 7 * 8 + 4)
    # values that a later stage changed travel number by number
    clipped = Federation(setup, (Sign(), ClipNorm(c=0.01))).run().ledger
    assert clipped.upload_bytes == dense.upload_bytes


def test_the_aggregate_is_the_plain_mean_of_the_sparse_rows(make_setup: Callable[..., FederationSetup]) -> None:
    setup = make_setup(rounds=1)
    whole = Federation(setup, (TopK(share=1.0),)).run().released
    assert torch.allclose(whole, Federation(setup).run().released, atol=1e-7)
    accuracy = [Federation(make_setup(rounds=6), (d,)).run().accuracy[-1] for d in (TopK(share=0.2), Sign())]
    assert min(accuracy) > 0.5


@pytest.mark.parametrize(
    "defense",
    [
        RandomK(share=0.5),
        RandomK(share=0.4, error_feedback=True),
        QSGD(levels=7),
        Quantize8Bit(),
        Prune(share=0.5),
        LowRank(rank=2, error_feedback=True),
    ],
    ids=lambda defense: defense.name,
)
def test_models_learn_from_fewer_bytes(defense: Compression, make_setup: Callable[..., FederationSetup]) -> None:
    result = Federation(make_setup(rounds=6), (defense,)).run()
    dense = result.ledger.uploads * (make_setup().model.layout.size + 1) * 4
    assert result.ledger.upload_bytes < 0.65 * dense
    assert result.diagnostics[f"{defense.name}.size_share"] == pytest.approx(result.ledger.upload_bytes / dense)
    assert result.accuracy[-1] > 0.5


def test_soteria_trains_and_is_the_same_in_every_engine(make_setup: Callable[..., FederationSetup]) -> None:
    """It prunes gradients at the clients, whichever way a cohort is trained."""
    setup = make_setup(rounds=2)
    released = [
        Federation(setup, (Soteria(share=0.5),), engine=engine).run().released for engine in ("sequential", "stacked")
    ]
    torch.testing.assert_close(released[0], released[1], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(released[0], Federation(setup).run().released, atol=1e-3)
    assert Federation(make_setup(rounds=6), (Soteria(share=0.3),)).run().accuracy[-1] > 0.5
