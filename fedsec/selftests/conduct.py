"""What every stage owes, whatever it does: it changes no input, and chunks of a cohort change nothing."""

from __future__ import annotations

import torch

from fedsec.protocol.payload import Plain
from fedsec.selftests.answers import Answer, KnownAnswer, below
from fedsec.selftests.bench import CLIENTS, Bench


def acts(bench: Bench) -> str:
    """Stages on updates."""
    if bench.has_rule:
        return "its rule or its mixing needs a server with a model"
    return "" if bench.changes_rounds else "it does nothing to updates"


def untouched(bench: Bench) -> Answer:
    """Inputs before and after."""
    values, weights = bench.updates(size=0.5), bench.weights()
    before, counted = values.clone(), weights.clone()
    bench.round(bench.stages(), values, weights)
    same = torch.equal(values, before) and torch.equal(weights, counted)
    return Answer(same, "unchanged" if same else "the input was changed in place", "unchanged")


def chunks(bench: Bench) -> Answer:
    """The same round at once, and one client after another in another order."""
    values, weights = bench.updates(), bench.weights()
    whole = bench.round(bench.stages(), values, weights)
    order = [[place] for place in reversed(range(CLIENTS))]
    parts = bench.round(bench.stages(), values, weights, chunks=order)
    difference = float((whole.mean - parts.mean).abs().max())
    return below(difference, bench.resolution if bench.hides else 1e-6, "largest difference")


def coded(bench: Bench) -> str:
    """Stages whose rows have a code, or are bytes."""
    if acts(bench):
        return acts(bench)
    sent = bench.round(bench.stages(), bench.updates(), bench.weights()).sent[0]
    return "" if not isinstance(sent, Plain) or sent.code is not None else "its rows travel number by number"


def counted_bytes(bench: Bench) -> Answer:
    """Bytes as counted against bytes as written, and the row read back out of them."""
    sent = bench.round(bench.stages(), bench.updates(), bench.weights()).sent[0]
    for row in range(len(sent)):
        written = bytes(sent.serialise(row))
        if len(written) != sent.nbytes(row):
            return Answer(False, f"{len(written)} bytes written, {sent.nbytes(row)} counted", "as many")
        if isinstance(sent, Plain) and sent.code is not None:
            read = sent.code.decode(written[: -sent.values.element_size()])
            if not torch.equal(read, sent.values[row]):
                return Answer(False, f"row {row} reads back differently", "the row")
    return Answer(True, f"{sent.nbytes(0)} bytes a row, as written", "as many as written, and the row read back")


TESTS = (
    KnownAnswer("input-unchanged", "Does the stage leave its input as it was", acts, untouched),
    KnownAnswer("chunks", "Does it not matter which clients are handled together", acts, chunks),
    KnownAnswer("bytes", "Are the counted bytes those on the wire", coded, counted_bytes),
)
