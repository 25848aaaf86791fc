"""The price list: what a stack's stages cost a round, measured on the federation's own model without training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from fedsec.federation.mean import mean
from fedsec.federation.stages import Stages
from fedsec.protocol.payload import Payload, Plain
from fedsec.protocol.stage import Cohort, Defense, Setting
from fedsec.randomness import generator

T = TypeVar("T")
PHASES = ("seal", "serialise", "add", "open")
SIZE = 0.01
"""Standard deviation of an entry of the updates that are priced: like an honest one's, and inside every range."""

MISSED = 0.15
"""Share by which a line may miss a measured time; beyond it the cost is taken to grow with pairs of clients."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one phase in a round of ``n`` clients, all clients together: ``fixed + each n + pairs n^2``.

    Attributes:
        fixed: seconds that do not depend on the clients.
        each: seconds per client.
        pairs: seconds per pair of clients (both orders), as where each masks against each.
    """

    fixed: float
    each: float
    pairs: float

    def at(self, clients: float) -> float:
        """Seconds in a round of so many clients."""
        return self.fixed + self.each * clients + self.pairs * clients**2


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a stack's stages cost, training apart.

    Attributes:
        measured: cohort sizes that were measured.
        seconds: the fitted cost of each phase, by its name in `PHASES`: ``seal`` is all that clients do before upload
            (encrypt, mask, compress, add noise), ``serialise`` the bytes of their uploads, ``add`` what the server
            does on arrival and to form the mean, ``open`` decryption, unmasking and recovery.
        upload: bytes of one upload.
        download: bytes that one client is sent for the next round.
        plain: bytes of an update of this model in clear, number by number.
        protocol: bytes of the protocol's other messages per client, sent and received, at each measured size.
        peak: bytes of memory at the peak above what was held before, at the largest measured size; ``None`` where the
            system does not tell.
        parameters: length of an update.
    """

    measured: tuple[int, ...]
    seconds: dict[str, Cost]
    upload: int
    download: int
    plain: int
    protocol: tuple[float, ...]
    peak: int | None
    parameters: int

    def client_seconds(self, clients: float) -> float:
        """Seconds of one client in a round of so many."""
        return (self.seconds["seal"].at(clients) + self.seconds["serialise"].at(clients)) / clients

    def server_seconds(self, clients: float) -> float:
        """Seconds of server and opener together in a round of so many."""
        return self.seconds["add"].at(clients) + self.seconds["open"].at(clients)


Prepare = Callable[[Stages], None]


def price(
    stack: Sequence[Defense],
    setting: Setting,
    *,
    sizes: Sequence[int] = (4, 8, 16),
    repeats: int = 2,
    seed: int = 0,
    prepare: Prepare = lambda stages: None,
) -> Price:
    """Measure rounds of a few sizes, with updates that are noise, and fit each phase's cost.

    Keys are made in a round before, which does not count. Of several rounds the fastest counts, phase by phase.

    Args:
        stack: in the order in which clients apply it.
        setting: the federation; its cohort is replaced by each size.
        sizes: at least three, ascending.
        repeats: rounds of each size.
        seed: of the updates.
        prepare: what comes before the first round (`Stages.agree`); it is not measured.

    Raises:
        ValueError: fewer than three sizes, from which no formula can be told.
    """
    if len(set(sizes)) < 3:
        raise ValueError(f"three sizes are needed to tell how the cost grows, and there are {len(set(sizes))}")
    best = {phase: [float("inf")] * len(sizes) for phase in PHASES}
    protocol, round_ = [0.0] * len(sizes), None
    _measure(stack, setting, sizes[0], seed, prepare)
    before = _peak(reset=True)
    for place, clients in enumerate(sizes):
        for repeat in range(repeats):
            round_ = _measure(stack, setting, clients, seed + repeat, prepare)
            protocol[place] = round_.protocol / clients
            for phase, seconds in round_.seconds.items():
                best[phase][place] = min(best[phase][place], seconds)
    after = _peak()
    if round_ is None:
        raise ValueError("at least one repeat is needed")
    size = setting.layout.size
    return Price(
        measured=tuple(sizes),
        seconds={phase: fitted(sizes, found) for phase, found in best.items()},
        upload=round_.upload,
        download=round_.download,
        plain=(size + 1) * 4,
        protocol=tuple(protocol),
        peak=None if before is None or after is None else max(0, after - before),
        parameters=size,
    )


def fitted(sizes: Sequence[int], seconds: Sequence[float]) -> Cost:
    """The formula without negative parts that fits best in proportion; pairs count only where a line misses a point.

    Args:
        sizes: numbers of clients.
        seconds: of the whole round at each.
    """
    n = np.asarray(sizes, dtype=np.float64)
    y = np.maximum(np.asarray(seconds, dtype=np.float64), 1e-9)
    line = np.stack([np.ones_like(n), n], axis=1) / y[:, None]
    (fixed, each), _ = nnls(line, np.ones_like(y))
    pairs = 0.0
    if float(np.abs(line @ (fixed, each) - 1.0).max()) > MISSED:
        (fixed, each, pairs), _ = nnls(np.concatenate([line, (n**2 / y)[:, None]], axis=1), np.ones_like(y))
    return Cost(fixed=float(fixed), each=float(each), pairs=float(pairs))


@dataclass(frozen=True, kw_only=True)
class _Round:
    seconds: dict[str, float]
    upload: int
    download: int
    protocol: float


def _measure(stack: Sequence[Defense], setting: Setting, clients: int, seed: int, prepare: Prepare) -> _Round:
    """Two rounds of so many clients, of which the second counts: the first makes the keys."""
    setting = replace(setting, population=max(setting.population, clients), cohort=float(clients))
    stages = Stages(stack, setting, seed=seed)
    stages.participants = tuple(range(clients))
    prepare(stages)
    result = None
    for number in range(min(2, setting.rounds)):
        noise = generator(seed, "price", number)
        values = SIZE * torch.randn(clients, setting.layout.size, generator=noise)
        result = _round(stages, Plain(values, torch.ones(clients, dtype=torch.float64)), number)
    if result is None:
        raise ValueError("a federation of no rounds has no price")
    return result


def _round(stages: Stages, update: Plain, number: int) -> _Round:
    ids = tuple(range(len(update)))
    stages.protocol = dict.fromkeys(stages.protocol, 0)
    seconds: dict[str, float] = {}
    sealed = _timed(seconds, "seal", lambda: stages.before_upload(update, number, ids, bound=True))
    upload = _timed(seconds, "serialise", lambda: [len(sealed.serialise(row)) for row in range(len(sealed))])
    aggregate = _timed(seconds, "add", lambda: _aggregated(stages, sealed, update.values, number, ids))
    opened = _timed(seconds, "open", lambda: stages.opening(aggregate, number, ()))[-1]
    if not isinstance(opened, Plain):
        raise TypeError(f"nobody opened the {opened.kind} aggregate")
    behind = "server" not in stages.holders and not isinstance(aggregate, Plain)
    plain = stages.setting.layout.size * update.values.element_size()
    return _Round(
        seconds=seconds,
        upload=max(upload),
        download=aggregate.nbytes(0) if behind else plain,
        protocol=float(sum(stages.protocol.values())),
    )


def _aggregated(stages: Stages, sealed: Payload, like: Tensor, number: int, ids: tuple[int, ...]) -> Payload:
    """The mean of the uploads; what a rule of the stack's own costs is measured by ``fedsec audit``."""
    received = stages.on_arrival(sealed, number, ids)
    return mean(Cohort([(ids, received)]), size=like.shape[1], like=like)


def _timed(seconds: dict[str, float], phase: str, work: Callable[[], T]) -> T:
    started = time.perf_counter()
    result = work()
    seconds[phase] = time.perf_counter() - started
    return result


def _peak(*, reset: bool = False) -> int | None:
    """Largest resident memory of this process in bytes since the last reset; ``None`` where the system cannot tell."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        if reset:
            clear.write_text("5")
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
