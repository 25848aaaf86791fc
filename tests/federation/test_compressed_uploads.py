"""What compression saves is in the ledger, and the model still learns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.defenses.compression.plugins import Sign, TopK
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
