from __future__ import annotations

import torch

from fedsec.audit.exhibits import exhibits

WORDS = ("<pad>", "<unk>", "a", "fine", "film")
ARRAYS = {
    "text/original": torch.tensor([[2, 3, 4], [4, 0, 0]]),
    "text/reconstruction": torch.tensor([[2, 4, 0], [0, 0, 0]]),
    "text/score": torch.tensor([0.8, 0.0]),
}


def test_tokens_become_words() -> None:
    found = exhibits(ARRAYS, show_originals=True, derived=False, words=WORDS)["sentences"]
    assert found["original"] == [["a", "fine", "film"], ["film"]]
    assert found["reconstruction"] == [["a", "film"], []]
    assert found["score"] == [0.8, 0.0]
    assert found["spaced"]


def test_true_sentences_are_withheld() -> None:
    found = exhibits(ARRAYS, show_originals=False, derived=False, words=WORDS)["sentences"]
    assert found["original"] is None


def test_characters_are_not_spaced() -> None:
    arrays = {"text/reconstruction": torch.tensor([[2, 3]])}
    assert not exhibits(arrays, show_originals=True, derived=False, words=("<pad>", "<unk>", "x", "y"))["sentences"][
        "spaced"
    ]


def test_tokens_without_words_are_not_shown() -> None:
    assert "sentences" not in exhibits(ARRAYS, show_originals=True, derived=False)
