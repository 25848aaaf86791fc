"""Datasets that come with fedsec's dependencies or fit on a page; nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from fedsec.data.build import above_class_median, build_dataset, stratified_rows
from fedsec.data.examples import Attribute, Dataset, DatasetInfo, Examples
from fedsec.data.source import DatasetSource

INK = Attribute(
    name="ink",
    values=("light", "heavy"),
    description="derived: whether the mean ink of the image is above the median of its class among the train images",
)


@dataclass(frozen=True, kw_only=True)
class Digits(DatasetSource):
    """1,797 handwritten digits of 8x8 pixels from scikit-learn; 500 of them are the test examples."""

    name: ClassVar[str] = "digits"
    summary: ClassVar[str] = "Handwritten digits, 8x8 grey, 1,297 train and 500 test images, no download"
    family: ClassVar[str] = "image"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="digits",
        summary=summary,
        task="classification",
        input_shape=(1, 8, 8),
        classes=tuple("0123456789"),
        bounds=(0.0, 1.0),
        modality="image",
        attributes=(INK,),
        public=True,
        source="E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, doi:10.24432/C50P49; "
        "test part as in scikit-learn",
        licence="CC BY 4.0",
    )

    def load(self, root: Path | None = None) -> Dataset:
        """Load it; ``root`` is not used."""
        from sklearn.datasets import load_digits

        raw = load_digits()
        x = torch.from_numpy(np.asarray(raw.images, dtype=np.float32) / 16.0).unsqueeze(1)
        y = torch.from_numpy(np.asarray(raw.target, dtype=np.int64))
        train, test = stratified_rows(y.numpy(), 500, purpose="digits")
        ink = x.mean(dim=(1, 2, 3))
        value = above_class_median(ink, y, reference_value=ink[train], reference_y=y[train])
        everything = Examples(x, y, {"ink": value})
        return build_dataset(
            self.info, train=everything.take(torch.from_numpy(train)), test=everything.take(torch.from_numpy(test))
        )


@dataclass(frozen=True, kw_only=True)
class BreastCancer(DatasetSource):
    """569 tumours with 30 measurements each from scikit-learn, scaled to [0, 1] by the train rows; 119 are for testing.

    Test values beyond the range of the train rows are moved to the bound.
    """

    name: ClassVar[str] = "breast-cancer"
    summary: ClassVar[str] = "Breast cancer Wisconsin (diagnostic), 30 measurements, 450 train and 119 test rows"
    family: ClassVar[str] = "tabular"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="breast-cancer",
        summary=summary,
        task="classification",
        input_shape=(30,),
        classes=("malignant", "benign"),
        bounds=(0.0, 1.0),
        modality="tabular",
        public=True,
        source="W. Wolberg, O. Mangasarian, N. Street, W. Street, Breast Cancer Wisconsin (Diagnostic), UCI 1993, "
        "doi:10.24432/C5DW2B",
        licence="CC BY 4.0",
    )

    def load(self, root: Path | None = None) -> Dataset:
        """Load it; ``root`` is not used."""
        from sklearn.datasets import load_breast_cancer

        raw = load_breast_cancer()
        x = np.asarray(raw.data, dtype=np.float64)
        y = np.asarray(raw.target, dtype=np.int64)
        train, test = stratified_rows(y, 119, purpose="breast-cancer")
        low, high = x[train].min(axis=0), x[train].max(axis=0)
        scaled = torch.from_numpy(np.clip((x - low) / (high - low), 0.0, 1.0).astype(np.float32))
        everything = Examples(scaled, torch.from_numpy(y))
        return build_dataset(
            self.info, train=everything.take(torch.from_numpy(train)), test=everything.take(torch.from_numpy(test))
        )


# Height in inches and average weight in pounds (World Almanac and Book of Facts, 1975).
_HEIGHT = tuple(range(58, 73))
_WEIGHT = (115, 117, 120, 123, 126, 129, 132, 135, 139, 142, 146, 150, 154, 159, 164)


@dataclass(frozen=True, kw_only=True)
class HeightWeight(DatasetSource):
    """Average weight in pounds by height of American women aged 30 to 39: 15 rows, 12 for training and 3 for testing.

    The height is given in standard deviations of the train rows from their mean; the target stays in pounds.
    """

    name: ClassVar[str] = "height-weight"
    summary: ClassVar[str] = "Height to weight, a linear regression of 15 rows"
    family: ClassVar[str] = "tabular"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="height-weight",
        summary=summary,
        task="regression",
        input_shape=(1,),
        classes=(),
        bounds=(-3.0, 3.0),
        modality="tabular",
        public=True,
        source="The World Almanac and Book of Facts, 1975; D. McNeil, Interactive Data Analysis, Wiley 1977; "
        "the data set `women` of R",
        licence="facts, no copyright",
    )

    def load(self, root: Path | None = None) -> Dataset:
        """Load it; ``root`` is not used."""
        height = np.asarray(_HEIGHT, dtype=np.float64)
        # one test row from each third of the range
        train, test = stratified_rows(np.arange(15, dtype=np.int64) // 5, 3, purpose="height-weight")
        scaled = (height - height[train].mean()) / height[train].std()
        everything = Examples(
            torch.from_numpy(scaled.astype(np.float32)).unsqueeze(1), torch.tensor(_WEIGHT, dtype=torch.float32)
        )
        return build_dataset(
            self.info, train=everything.take(torch.from_numpy(train)), test=everything.take(torch.from_numpy(test))
        )
