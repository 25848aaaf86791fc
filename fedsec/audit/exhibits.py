"""Exhibits of a cell as JSON-able values: galleries, ROC curves, curves over rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fedsec.data.tokens import PADDING, SPECIAL

GALLERY = 6
"""Examples shown per gallery: best to worst, the middle one included."""
FIRST_WORD = len(SPECIAL)
THUMBNAIL = 64
"""Images wider than this are thinned for the page."""


def _rounded(tensor: Tensor, digits: int = 3) -> list[Any]:
    values: list[Any] = [round(float(v), digits) for v in tensor.double().flatten().tolist()]
    return values


def _thin(images: Tensor) -> Tensor:
    if images.dim() == 4 and images.shape[-1] > THUMBNAIL:
        step = -(-images.shape[-1] // THUMBNAIL)
        return images[..., ::step, ::step]
    return images


def gallery(arrays: Mapping[str, Tensor], *, show_originals: bool, derived: bool) -> dict[str, Any] | None:
    """Originals (or ``None`` if they may not be shown), reconstructions and scores, best to worst.

    ``derived`` pictures are made from the originals (adversarial examples): they show them, and go with them.
    """
    if "gallery/reconstruction" not in arrays or (derived and not show_originals):
        return None
    made = arrays["gallery/reconstruction"]
    count = made.shape[0]
    keep = list(range(count))
    if count > GALLERY:
        keep = sorted({round(i * (count - 1) / (GALLERY - 1)) for i in range(GALLERY)})
    made = _thin(made[keep])
    # what an attack changed may be a hundredth of the range, and is told by the difference
    digits = 5 if derived else 3
    shown: list[Any] | None = None
    if show_originals and "gallery/original" in arrays:
        shown = [_rounded(image, digits) for image in _thin(arrays["gallery/original"][keep])]
    score = arrays.get("gallery/score")
    return {
        "shape": list(made.shape[1:]),
        "original": shown,
        "reconstruction": [_rounded(image, digits) for image in made],
        "score": _rounded(score[keep], 4) if score is not None else [],
        "order": "best to worst",
    }


def sentences(arrays: Mapping[str, Tensor], words: Sequence[str], *, show_originals: bool) -> dict[str, Any] | None:
    """Recovered sentences in words, best to worst, beside the true ones (or ``None`` if they may not be shown)."""
    if "text/reconstruction" not in arrays or not words:
        return None

    def read(name: str) -> list[list[str]]:
        return [[words[token] for token in row if token != PADDING] for row in arrays[name].tolist()]

    return {
        "original": read("text/original") if show_originals and "text/original" in arrays else None,
        "reconstruction": read("text/reconstruction"),
        "score": _rounded(arrays["text/score"], 4) if "text/score" in arrays else [],
        "spaced": any(len(word) > 1 for word in words[FIRST_WORD:]),
    }


def exhibits(
    arrays: Mapping[str, Tensor], *, show_originals: bool, derived: bool, words: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that the report can draw of a cell.

    Args:
        arrays: of the judgement.
        show_originals: whether the true examples may be shown.
        derived: whether reconstructions are made from the originals.
        words: what tokens stand for.
    """
    found: dict[str, Any] = {}
    said = sentences(arrays, words, show_originals=show_originals)
    if said is not None:
        found["sentences"] = said
    pictures = gallery(arrays, show_originals=show_originals, derived=derived)
    if pictures is not None:
        found["gallery"] = pictures
    if "roc/fpr" in arrays:
        found["roc"] = {"fpr": _rounded(arrays["roc/fpr"], 5), "tpr": _rounded(arrays["roc/tpr"], 5)}
    if "acting/span" in arrays:
        found["acting"] = dict(zip(("first", "last"), arrays["acting/span"].tolist(), strict=True))
    names = sorted({name.split("/")[1] for name in arrays if name.startswith("curve/")})
    if names:
        found["curves"] = {
            name: {"x": _rounded(arrays[f"curve/{name}/x"]), "y": _rounded(arrays[f"curve/{name}/y"], 4)}
            for name in names
        }
    return found
