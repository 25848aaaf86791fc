"""One source of randomness: seeds derive from what they are for, never from the order of execution.

No module of fedsec touches the global generators. A generator is derived from a purpose, such as
``generator(seed, "train", round, client)``, so a result does not depend on how many workers ran it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def _signed(bits: int) -> int:
    """The int64 with the low 64 bits of a Python integer."""
    bits &= (1 << 64) - 1
    return bits - (1 << 64) if bits >> 63 else bits


_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_GOLDEN = _signed(0x9E3779B97F4A7C15)


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed that is a hash of its parts (BLAKE2b); equal parts give equal seeds on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for this purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


def numpy_generator(*parts: str | int) -> np.random.Generator:
    """A numpy generator for this purpose."""
    return np.random.default_rng(derive_seed(*parts))


def salted(keys: Tensor, salt: int) -> Tensor:
    """Keys for another purpose: different salts give independent draws of `counter_uniform`."""
    return _finalise(keys + _signed((salt + 1) * 0xD1342543DE82EF95))


def _finalise(bits: Tensor) -> Tensor:
    """The SplitMix64 finaliser."""
    bits = (bits ^ _shift_right(bits, 30)) * _MIX_1
    bits = (bits ^ _shift_right(bits, 27)) * _MIX_2
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Logical shift of int64 (torch shifts arithmetically)."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def counter_uniform(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers in [0, 1) as a pure function of (key, position): SplitMix64 finaliser over a counter.

    A pure function of tensors gives the same draws in a loop over clients, batched over clients, under
    ``torch.func.vmap`` and on every device; a stateful generator does not.

    Args:
        keys: int64, any shape ``(*lead,)``.
        shape: what each key draws.

    Returns:
        float32 ``(*lead, *shape)``, 24 random bits each.
    """
    count = 1
    for size in shape:
        count *= size
    position = torch.arange(1, count + 1, device=keys.device, dtype=torch.int64)
    bits = _finalise(keys.unsqueeze(-1) + position * _GOLDEN)
    unit = _shift_right(bits, 40).to(torch.float32) * (1.0 / (1 << 24))
    return unit.reshape(*keys.shape, *shape)
