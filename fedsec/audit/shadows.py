"""Shadow federations: what an adversary who knows the algorithm trains on data of its own choice, kept on disk."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsec.audit.keys import digest
from fedsec.audit.store import Artifacts
from fedsec.data.examples import Examples
from fedsec.data.partitions import Shuffle
from fedsec.data.source import ClientIndex
from fedsec.data.split import Split
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup
from fedsec.protocol.compose import seals
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.payload import Kind
from fedsec.protocol.stage import Defense
from fedsec.randomness import derive_seed, numpy_generator


def examples_digest(examples: Examples) -> str:
    """Hex digest of inputs and labels, in their order (attributes are no model inputs)."""
    whole = hashlib.sha256()
    for tensor in (examples.x, examples.y):
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        whole.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return whole.hexdigest()[:40]


def shadow_setup(setup: FederationSetup, training_set: Examples, *, seed: int) -> FederationSetup:
    """The federation with other data: the same population, rounds, local training, participation and initial model.

    The training set is shuffled over the clients in parts of equal size; cohorts, batches and every other draw are
    those of ``seed``.

    Raises:
        NotApplicable: clients see their examples through environments of their own, which nobody else knows.
    """
    if setup.transforms:
        raise NotApplicable("clients see their examples through environments of their own, which no shadow can copy")
    order = numpy_generator(seed, "shadow partition").permutation(len(training_set)).astype(np.int64)
    sizes = [len(part) for part in np.array_split(order, len(setup.index))]
    nothing = training_set.take([])
    return dataclasses.replace(
        setup,
        split=Split(training_set.to(setup.device), nothing, nothing, setup.split.test.take([0])),
        index=ClientIndex(order, np.append(0, np.cumsum(sizes)).astype(np.int64)),
        partition=Shuffle(),
        evaluate_every=setup.rounds,
        seed=seed,
    )


def in_clear(setup: FederationSetup, stack: tuple[Defense, ...]) -> tuple[FederationSetup, tuple[Defense, ...]]:
    """The federation without the stages that only hide updates: what they hide, a shadow's owner knows anyway.

    Encryption and masking change a released model by rounding at the most and cost much; where such a stage makes
    every client count once, so does the shadow.
    """
    hides = tuple(d for d in stack if seals(d) and d.emits not in (None, Kind.PLAIN))
    once = any(defense.unit_weights for defense in hides)
    kept = tuple(defense for defense in stack if defense not in hides)
    return (dataclasses.replace(setup, weighting="uniform") if once else setup), kept


@dataclass(frozen=True)
class Shadows:
    """Trains shadow federations and keeps each one under a key that says everything that can change it.

    Each is a result of its own in the store, written at once or not at all; one lock per shadow lets several cells of
    an audit that need the same ones share the work instead of repeating it. The key does not name the attack.

    Attributes:
        setup: the real federation, on the device that trains; only what is public of it is used.
        stack: its defenses.
        training: key of its honest training, which holds model, algorithm, code, stack, seed and numerics.
        artifacts: where shadows are kept.
    """

    setup: FederationSetup
    stack: tuple[Defense, ...]
    training: str
    artifacts: Artifacts

    def __call__(self, training_sets: Sequence[Examples], draw: int) -> Tensor:
        """Released models of shadow federations.

        Args:
            training_sets: ``s`` sets of examples; the same set at another place in the list is trained with other
                draws.
            draw: which of the adversary's own draws (partition, cohorts, batches, noise).

        Returns:
            ``(s, d)`` on the CPU.

        Raises:
            NotApplicable: nobody but the clients can know what they train on (`shadow_setup`).
        """
        keys = [self.key(one, draw, place) for place, one in enumerate(training_sets)]
        missing = [place for place, key in enumerate(keys) if not self.artifacts.has(key)]
        # First those that nobody else is training, then whatever is still missing when the others are done.
        for wait in (False, True):
            for place in missing:
                self._make(keys[place], training_sets[place], derive_seed("shadow", draw, place), wait=wait)
        if not keys:
            return self.setup.initial.new_empty(0, self.setup.model.layout.size, device="cpu")
        return torch.stack([self.artifacts.read(key).tensors["released"] for key in keys])

    def key(self, training_set: Examples, draw: int, place: int) -> str:
        """The key of one shadow."""
        return digest(
            {
                "kind": "shadow",
                "training": self.training,
                "data": examples_digest(training_set),
                "draw": draw,
                "place": place,
            }
        )

    def _make(self, key: str, training_set: Examples, seed: int, *, wait: bool) -> None:
        with self._lock(key, wait=wait) as mine:
            if not mine or self.artifacts.has(key):
                return
            setup, stack = in_clear(shadow_setup(self.setup, training_set, seed=seed), self.stack)
            released = Federation(setup, stack).run().released
            self.artifacts.write(key, {"kind": "shadow", "label": f"shadow {seed}"}, {"released": released})

    @contextmanager
    def _lock(self, key: str, *, wait: bool) -> Iterator[bool]:
        """Whether this process may train the shadow; the system lets go of the lock of a killed process."""
        path = self.artifacts.path(key).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
