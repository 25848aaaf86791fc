"""Defenses that are wrong in the ways that popular ones are, each beside the right one that it looks like."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from fedsec.defenses.compression.plugins import TopK
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.defenses.privacy.adaptive import AdaptiveClientLevelDP
from fedsec.defenses.privacy.client_level import ClientLevelDP
from fedsec.defenses.privacy.local import LocalDP, clip_norms, noise_rows
from fedsec.protocol.payload import Kind, Masked, Payload, Plain, Sealed
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting

SCALE = 2.0**20


@dataclass(frozen=True)
class WordSums:
    """Sums of 4-byte words, and of how many rows."""

    def start(self, row: bytes) -> tuple[Any, int]:
        return np.frombuffer(row, "<u4").copy(), 1

    def add(self, accumulator: tuple[Any, int], row: bytes) -> tuple[Any, int]:
        return accumulator[0] + np.frombuffer(row, "<u4"), accumulator[1] + 1

    def finish(self, accumulator: tuple[Any, int]) -> bytes:
        return accumulator[0].tobytes() + np.array([accumulator[1]], "<u4").tobytes()


@dataclass(frozen=True, kw_only=True)
class PairwiseMasks(Defense):
    """Masks of pairs that cancel in the sum, without recovery; right with keys of 256 bits."""

    name: ClassVar[str] = "pairwise-masks"
    summary: ClassVar[str] = "Masks that cancel"
    family: ClassVar[str] = "secure aggregation"
    cost: ClassVar[str] = "masks"
    guarantee: ClassVar[Guarantee] = Guarantee(protects="single updates", against="the server", assuming="nobody drops")
    emits: ClassVar[Kind | None] = Kind.MASKED
    holders: ClassVar[frozenset[str]] = frozenset({"server"})

    seed_bits: Annotated[int, Field(ge=1, description="of a pair's seed")] = 256
    reused: Annotated[bool, Field(description="whether the seeds of the first round serve for all")] = False
    unmasked: Annotated[bool, Field(description="whether the mask is forgotten")] = False

    @property
    def enforcement(self) -> EnforcedBy:
        return EnforcedBy.FORMAT

    def claims(self, setting: Setting) -> dict[str, float | str]:
        return {"resolution": 1 / SCALE}

    def seal(self, update: Payload, context: RoundContext) -> Masked:
        assert isinstance(update, Plain)
        everyone = sorted({*context.participants, *context.clients})
        rows = []
        for place, client in enumerate(context.clients):
            weight = update.weights[place].double()
            numbers = torch.cat([update.values[place].double() * weight, weight[None]]).numpy()
            words = np.rint(numbers * SCALE).astype(np.int64).astype(np.uint32)
            for other in everyone:
                if other != client and not self.unmasked:
                    sign = 1 if client < other else -1
                    mask = self.mask(self._seed(client, other, context), len(words))
                    words = words + mask if sign > 0 else words - mask
            rows.append(words.astype("<u4").tobytes())
        group = frozenset(f"client:{c}" for c in everyone)
        return Masked(tuple(rows), WordSums(), group)

    def open(self, aggregate: Payload, context: RoundContext) -> Payload:
        if not isinstance(aggregate, Masked):
            return aggregate
        if not aggregate.is_sum:
            (client,) = context.clients
            words = np.frombuffer(aggregate.masked[0], "<u4").copy()
            for other in sorted(context.participants):
                if other != client and not self.unmasked:
                    mask = self.mask(self._seed(client, other, context), len(words))
                    words = words - mask if client < other else words + mask
            return self._mean(words)
        words = np.frombuffer(aggregate.masked[0], "<u4")
        if int(words[-1]) != len(aggregate.group):
            empty = torch.zeros(1, len(words) - 2, dtype=torch.float64)
            return Plain(empty, torch.zeros(1, dtype=torch.float64))
        return self._mean(words[:-1])

    def _mean(self, words: Any) -> Plain:
        numbers = words.astype(np.int32).astype(np.float64) / SCALE
        weight = numbers[-1]
        return Plain(torch.from_numpy(numbers[:-1] / weight)[None], torch.tensor([weight]))

    def _seed(self, one: int, other: int, context: RoundContext) -> int:
        seeds = context.vault.setdefault("seeds", {})
        pair = (0 if self.reused else context.round, min(one, other), max(one, other))
        return int(seeds.setdefault(pair, secrets.randbits(self.seed_bits)))

    def mask(self, seed: int, count: int) -> Any:
        if self.seed_bits <= 32:
            return np.random.RandomState(seed).randint(0, 2**32, count, dtype=np.uint32)
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

        key = seed.to_bytes(32, "little")
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * count))
        return np.frombuffer(stream, "<u4")


@dataclass(frozen=True, kw_only=True)
class InvertedAdaptiveClipping(AdaptiveClientLevelDP):
    """The bound moves away from the quantile: the share of clipped updates in the place of unclipped ones."""

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        before = self._bound(context)
        opened = super().open(aggregate, context)
        context.state["clip_norm"] = before**2 / context.state["clip_norm"]
        return opened


@dataclass(frozen=True, kw_only=True)
class NoiseBeforeClipping(LocalDP):
    """Noise, and then the clipping that takes most of it away."""

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        assert isinstance(update, Plain)
        noise = noise_rows(context.clients, update.values, context) * self._noise_multiplier(context) * self.clip_norm
        values, _ = clip_norms(update.values + noise, self.clip_norm)
        return Plain(values, torch.ones_like(update.weights))


@dataclass(frozen=True, kw_only=True)
class WeightedSensitivity(ClientLevelDP):
    """Noise for a client's share of one in the cohort, and a mean that weighs clients by their examples."""

    unit_weights: ClassVar[bool] = False

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        assert isinstance(update, Plain)
        return Plain(super().seal(update, context).values, update.weights)

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        assert isinstance(aggregate, Plain)
        return super().open(Plain(aggregate.values, torch.full_like(aggregate.weights, context.cohort)), context)


@dataclass(frozen=True, kw_only=True)
class ForgetsRounds(ClientLevelDP):
    """Claims after the whole training what one round costs."""

    def claims(self, setting: Setting) -> dict[str, float | str]:
        return super().claims(replace(setting, rounds=1))


@dataclass(frozen=True, kw_only=True)
class UnbiasedTopK(TopK):
    """Top-k without residual that claims to be right on average."""

    @property
    def unbiased(self) -> bool:
        return True


@dataclass(frozen=True)
class WithSecret:
    """The public operations, and a serialised context that somebody forgot to strip."""

    inner: Any
    options: Mapping[str, Any]

    def start(self, row: bytes) -> Any:
        return self.inner.start(row)

    def add(self, accumulator: Any, row: bytes) -> Any:
        return self.inner.add(accumulator, row)

    def finish(self, accumulator: Any) -> bytes:
        return self.inner.finish(accumulator)


@dataclass(frozen=True, kw_only=True)
class SecretAtTheServer(CKKS):
    """The server is sent the context as it was made."""

    def seal(self, update: Payload, context: RoundContext) -> Sealed:
        sealed = super().seal(update, context)
        (keys,) = [held for held in context.vault.values() if hasattr(held, "secret")]
        options = {"contexts": (keys.secret.serialize(save_secret_key=True),)}
        return replace(sealed, scheme=WithSecret(sealed.scheme, options))

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        if isinstance(aggregate, Sealed) and isinstance(aggregate.scheme, WithSecret):
            aggregate = replace(aggregate, scheme=aggregate.scheme.inner)
        return super().open(aggregate, context)


@dataclass(frozen=True, kw_only=True)
class ChangesItsInput(LocalDP):
    """Scales the caller's tensor."""

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        assert isinstance(update, Plain)
        update.values.mul_(0.5)
        return super().seal(update, context)


@dataclass(frozen=True, kw_only=True)
class NoiseByPlace(LocalDP):
    """Draws a row's noise by its place in the chunk: which clients are handled together matters."""

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        return super().seal(update, replace(context, clients=tuple(range(len(context.clients)))))
