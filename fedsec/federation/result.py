"""What a training leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedsec.federation.wire import Ledger
from fedsec.protocol.events import Event


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training leaves behind.

    Attributes:
        released: ``(d,)`` published model.
        predictions: of the released model on the test examples.
        rounds: evaluated rounds.
        accuracy: after each of them.
        loss: after each of them.
        ledger: what crossed the wire.
        seconds: wall-clock time of the rounds.
        engine: how clients were trained.
        diagnostics: mean of what each stage reported.
        detected: per round ``(controlled dropped, honest dropped)``.
        present: per round ``(controlled in the cohort, honest in the cohort)``.
        events: the transcript.
        claims: of the defenses.
        compromised: share of the identities that the adversary controls.
        memory: what the adversary remembers at the end.
        probe: ``(m,)`` bool, whether the released model gives the labels that `Adversary.probe` wants.
        probes: share of them after each evaluated round.
        watch: columns of `fedsec.federation.watch.Watch`.
    """

    released: Tensor
    predictions: Tensor
    rounds: tuple[int, ...]
    accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    ledger: Ledger
    seconds: float
    engine: str
    diagnostics: dict[str, float]
    detected: tuple[tuple[int, int], ...]
    present: tuple[tuple[int, int], ...]
    events: tuple[Event, ...]
    claims: list[dict[str, float | str]]
    compromised: float
    memory: dict[str, Tensor]
    probe: Tensor | None
    probes: tuple[float, ...]
    watch: dict[str, Tensor]
