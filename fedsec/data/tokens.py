"""Words to token ids: a vocabulary from the train part, a fixed length, 0 for padding and 1 for the unknown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

PADDING = 0
UNKNOWN = 1
SPECIAL = ("<pad>", "<unk>")

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[^\w\s]|_")


def split_words(text: str) -> list[str]:
    """Lower-case words (with an inner apostrophe), numbers and single punctuation marks, in order."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids.

    Attributes:
        words: in the order of their ids, the special ones first.
    """

    words: tuple[str, ...]

    @classmethod
    def most_frequent(cls, sentences: Iterable[Sequence[str]], *, size: int) -> Vocabulary:
        """The ``size - 2`` most frequent words (fewer if there are fewer; ties in alphabetical order)."""
        counts = Counter(word for sentence in sentences for word in sentence)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((*SPECIAL, *ranked[: size - len(SPECIAL)]))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, sentences: Sequence[Sequence[str]], *, length: int) -> Tensor:
        """Token ids ``(sentences, length)`` int64: cut at the end or filled with padding."""
        ids = np.full((len(sentences), length), PADDING, dtype=np.int64)
        for row, sentence in enumerate(sentences):
            for column, word in enumerate(sentence[:length]):
                ids[row, column] = self._ids.get(word, UNKNOWN)
        return torch.from_numpy(ids)

    def decode(self, ids: Sequence[int] | Tensor, *, separator: str = " ") -> str:
        """The words of one sentence, without padding."""
        numbers = torch.as_tensor(ids).tolist()
        return separator.join(self.words[number] for number in numbers if number != PADDING)
