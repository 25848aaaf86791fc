"""The two codes as bytes: what a compressed row takes on the wire, and the same row read back out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NUMBER: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype("<f4"), torch.float64: np.dtype("<f8")}
_COUNT = np.dtype("<u4")


@dataclass(frozen=True)
class SparseCode:
    """Positions and values of the coordinates that are not 0, then the float buffers as they are.

    Four bytes hold how many there are. Positions are 4-byte indices, or one bit per coordinate where that is shorter
    (above one in 32); which of the two follows from the count.

    Attributes:
        size: ``d``.
        trainable: coordinates of the parameters; they come first.
        dtype: of the values.
    """

    size: int
    trainable: int
    dtype: torch.dtype

    def encode(self, row: Tensor) -> bytes:
        """See `Code`."""
        values = row.detach().cpu().numpy()
        kept = np.flatnonzero(values[: self.trainable])
        if self._as_bits(len(kept)):
            places = np.packbits(values[: self.trainable] != 0).tobytes()
        else:
            places = kept.astype(_COUNT).tobytes()
        number = _NUMBER[self.dtype]
        held = values[: self.trainable][kept].astype(number).tobytes()
        rest = values[self.trainable :].astype(number).tobytes()
        return np.array([len(kept)], dtype=_COUNT).tobytes() + places + held + rest

    def decode(self, encoded: bytes) -> Tensor:
        """See `Code`."""
        number = _NUMBER[self.dtype]
        count = int(np.frombuffer(encoded, _COUNT, 1)[0])
        start = _COUNT.itemsize
        stop = start + self._places(count)
        places = encoded[start:stop]
        if self._as_bits(count):
            bits = np.unpackbits(np.frombuffer(places, np.uint8), count=self.trainable)
            kept = np.flatnonzero(bits)
        else:
            kept = np.frombuffer(places, _COUNT).astype(np.int64)
        values = np.frombuffer(encoded[stop:], number)
        row = np.zeros(self.size, dtype=number)
        row[kept] = values[:count]
        row[self.trainable :] = values[count:]
        return torch.from_numpy(row).to(self.dtype)

    def nbytes(self, row: Tensor) -> int:
        """See `Code`."""
        count = int(torch.count_nonzero(row[: self.trainable]))
        held = count + self.size - self.trainable
        return _COUNT.itemsize + self._places(count) + held * _NUMBER[self.dtype].itemsize

    def _as_bits(self, count: int) -> bool:
        return -(-self.trainable // 8) < count * _COUNT.itemsize

    def _places(self, count: int) -> int:
        return -(-self.trainable // 8) if self._as_bits(count) else count * _COUNT.itemsize


@dataclass(frozen=True)
class SignCode:
    """The common magnitude of the parameters, one bit of sign for each, then the float buffers as they are.

    Attributes:
        size: ``d``.
        trainable: coordinates of the parameters; they come first.
        dtype: of the magnitude.
    """

    size: int
    trainable: int
    dtype: torch.dtype

    def encode(self, row: Tensor) -> bytes:
        """See `Code`; every parameter must have the magnitude of the first."""
        number = _NUMBER[self.dtype]
        values = row.detach().cpu().numpy().astype(number)
        scale = np.abs(values[:1]) if self.trainable else np.zeros(1, dtype=number)
        signs = np.packbits(~np.signbit(values[: self.trainable])).tobytes()
        return scale.tobytes() + signs + values[self.trainable :].tobytes()

    def decode(self, encoded: bytes) -> Tensor:
        """See `Code`."""
        number = _NUMBER[self.dtype]
        stop = number.itemsize + -(-self.trainable // 8)
        scale = np.frombuffer(encoded, number, 1)[0]
        bits = np.unpackbits(np.frombuffer(encoded[number.itemsize : stop], np.uint8), count=self.trainable)
        signed = np.where(bits == 1, scale, -scale).astype(number)
        return torch.from_numpy(np.concatenate([signed, np.frombuffer(encoded[stop:], number)])).to(self.dtype)

    def nbytes(self, row: Tensor) -> int:
        """See `Code`."""
        return (1 + self.size - self.trainable) * _NUMBER[self.dtype].itemsize + -(-self.trainable // 8)


__all__ = ["SignCode", "SparseCode"]
