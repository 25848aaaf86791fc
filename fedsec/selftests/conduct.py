"""What every stage owes, whatever it does: it changes no input, and chunks of a cohort change nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fedsec.federation.mean import mean
from fedsec.protocol.cohort import Cohort
from fedsec.protocol.payload import Payload, Plain
from fedsec.selftests.answers import Answer, KnownAnswer, below
from fedsec.selftests.bench import CLIENTS, Bench


def acts(bench: Bench) -> str:
    """Stages on updates."""
    if bench.has_rule:
        return "its rule or its mixing needs a server with a model"
    return "" if bench.changes_rounds else "it does nothing to updates"


class _ChangedError(Exception):
    """A hook changed what it was given."""


def _watched(hook: str, given: Payload, call: Callable[[Payload], Payload]) -> Payload:
    if not isinstance(given, Plain):
        return call(given)  # bytes cannot be changed in place
    values, weights = given.values.clone(), given.weights.clone()
    result = call(given)
    if not (torch.equal(given.values, values) and torch.equal(given.weights, weights)):
        raise _ChangedError(f"{hook} changed its input in place")
    return result


def untouched(bench: Bench) -> Answer:
    """What each hook is given, before and after."""
    stages, everyone = bench.stages(), tuple(range(CLIENTS))
    values, weights = bench.updates(size=0.5), bench.weights()
    if bench.defense.unit_weights:
        weights = torch.ones_like(weights)
    stages.participants = everyone
    given = Plain(values, weights)
    try:
        sealed = _watched("seal", given, lambda _: stages.before_upload(given, 0, everyone, bound=True))
        arrived = _watched("receive", sealed, lambda rows: stages.on_arrival(rows, 0, everyone))
        summed = mean(Cohort([(everyone, arrived)]), size=values.shape[1], like=values[0])
        _watched("open", summed, lambda row: stages.opening(row, 0, ())[-1])
    except _ChangedError as changed:
        return Answer(False, str(changed), "unchanged")
    return Answer(True, "unchanged", "unchanged")


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
