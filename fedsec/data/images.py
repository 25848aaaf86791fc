"""Image datasets that are read from files."""

from __future__ import annotations

import dataclasses
import gzip
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from fedsec.data.build import above_class_median, build_dataset, stratified_rows
from fedsec.data.cache import damaged, file_of
from fedsec.data.embedded import INK
from fedsec.data.examples import Attribute, Dataset, DatasetInfo, Examples
from fedsec.data.source import DatasetSource

_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_idx(path: Path, *, dataset: str, dimensions: int) -> NDArray[np.uint8]:
    """A gzipped IDX file of unsigned bytes (the format of the MNIST page).

    Raises:
        DataError: it is cut off, not gzip, or its header does not fit its length.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(dataset, path, str(error) or type(error).__name__) from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, 8, dimensions)):
        raise damaged(dataset, path, f"its header is not that of an IDX file of bytes with {dimensions} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(content, dtype=">u4", count=dimensions, offset=4))
    if len(content) - start != int(np.prod(shape, dtype=np.int64)):
        raise damaged(dataset, path, f"the header says {shape}, {len(content) - start} bytes follow")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_arrays(path: Path, *, dataset: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[np.uint8]]:
    """Arrays of bytes from an ``.npz`` file, whose shapes after the first side must be as given.

    Raises:
        DataError: the file cannot be read, lacks an array, or an array has another shape or type.
    """
    found = {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            for name, shape in shapes.items():
                array = archive[name]
                if array.dtype != np.uint8 or array.shape[1:] != shape:
                    raise damaged(dataset, path, f"array {name!r} is {array.dtype} {array.shape}")
                found[name] = array
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(dataset, path, str(error) or type(error).__name__) from error
    return found


def _unit(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255.0)


def _with_mean(
    attribute: str, train: tuple[Tensor, NDArray[np.uint8]], test: tuple[Tensor, NDArray[np.uint8]]
) -> tuple[Examples, Examples]:
    """Train and test examples with the derived attribute of their mean pixel."""
    y_train = torch.from_numpy(train[1].astype(np.int64))
    reference = train[0].mean(dim=(1, 2, 3))

    def made(x: Tensor, y: Tensor) -> Examples:
        mean = x.mean(dim=(1, 2, 3))
        value = above_class_median(mean, y, reference_value=reference, reference_y=y_train)
        return Examples(x, y, {attribute: value})

    return made(train[0], y_train), made(test[0], torch.from_numpy(test[1].astype(np.int64)))


class _IDXSource(DatasetSource):
    """MNIST and the sets that share its four files."""

    family: ClassVar[str] = "image"

    def load(self, root: Path | None = None) -> Dataset:
        """Load the train and test images.

        Raises:
            DataError: a file is missing or damaged.
        """
        parts = []
        for part in ("train", "t10k"):
            images = file_of(self.name, f"{part}-images-idx3-ubyte.gz", root)
            labels = file_of(self.name, f"{part}-labels-idx1-ubyte.gz", root)
            x = read_idx(images, dataset=self.name, dimensions=3)
            y = read_idx(labels, dataset=self.name, dimensions=1)
            if x.shape != (len(y), 28, 28):
                raise damaged(self.name, images, f"images of shape {x.shape} for {len(y)} labels")
            parts.append((_unit(x).unsqueeze(1), y))
        train, test = _with_mean("ink", parts[0], parts[1])
        return build_dataset(self.info, train=train, test=test)


@dataclass(frozen=True, kw_only=True)
class MNIST(_IDXSource):
    """70,000 handwritten digits of 28x28 pixels, with the official test part."""

    name: ClassVar[str] = "mnist"
    summary: ClassVar[str] = "Handwritten digits, 28x28 grey, 60,000 train and 10,000 test images"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="mnist",
        summary=summary,
        task="classification",
        input_shape=(1, 28, 28),
        classes=tuple("0123456789"),
        bounds=(0.0, 1.0),
        modality="image",
        attributes=(INK,),
        public=True,
        source="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, "
        "Proc. IEEE 1998",
        licence="CC BY-SA 3.0 (as commonly stated)",
    )


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(_IDXSource):
    """70,000 pictures of clothes of 28x28 pixels, with the official test part."""

    name: ClassVar[str] = "fashion-mnist"
    summary: ClassVar[str] = "Pictures of clothes, 28x28 grey, 60,000 train and 10,000 test images"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="fashion-mnist",
        summary=summary,
        task="classification",
        input_shape=(1, 28, 28),
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        bounds=(0.0, 1.0),
        modality="image",
        attributes=(INK,),
        public=True,
        source="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv:1708.07747",
        licence="MIT",
    )


@dataclass(frozen=True, kw_only=True)
class CIFAR10(DatasetSource):
    """A subset of CIFAR-10; figures on it must not be compared with published figures on the whole.

    ``exact`` has the first 4,000 training images with their exact pixels, 800 of which are the test examples: for
    pixel-level work such as gradient inversion. ``jpeg`` has 10,000 train and 2,000 test images that went through
    JPEG at quality 75 (median PSNR 30.5 dB): for training, membership and poisoning. The train images of ``jpeg``
    contain those of ``exact``, so the two must not be used as if they were disjoint.
    """

    name: ClassVar[str] = "cifar10"
    summary: ClassVar[str] = "A CIFAR-10 subset, 32x32 colour: 4,000 exact images, or 12,000 that went through JPEG"
    family: ClassVar[str] = "image"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="cifar10",
        summary=summary,
        task="classification",
        input_shape=(3, 32, 32),
        classes=_CIFAR10_CLASSES,
        bounds=(0.0, 1.0),
        modality="image",
        attributes=(
            Attribute(
                name="brightness",
                values=("dark", "bright"),
                description="derived: whether the mean pixel is above the median of its class among the train images",
            ),
        ),
        public=True,
        source="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009 (subset)",
        licence="none stated, research use",
    )

    variant: Annotated[
        Literal["exact", "jpeg"],
        Field(description="exact pixels of 4,000 images, or 12,000 images degraded by JPEG"),
    ] = "exact"

    def load(self, root: Path | None = None) -> Dataset:
        """Load the variant.

        Raises:
            DataError: its file is missing or damaged.
        """
        pixels, single = (32, 32, 3), ()
        if self.variant == "exact":
            path = file_of(self.name, "cifar10_train_first4000.npz", root)
            arrays = read_arrays(path, dataset=self.name, shapes={"x": pixels, "y": single})
            train, test = stratified_rows(arrays["y"].astype(np.int64), 800, purpose="cifar10-exact")
            parts = [(arrays["x"][rows], arrays["y"][rows]) for rows in (train, test)]
        else:
            path = file_of(self.name, "cifar10_jpeg_10k_2k.npz", root)
            names = {"x_train": pixels, "y_train": single, "x_test": pixels, "y_test": single}
            arrays = read_arrays(path, dataset=self.name, shapes=names)
            parts = [(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
        prepared = [(_unit(x).permute(0, 3, 1, 2).contiguous(), y) for x, y in parts]
        examples, tests = _with_mean("brightness", prepared[0], prepared[1])
        return build_dataset(self.info, train=examples, test=tests)


@dataclass(frozen=True, kw_only=True)
class ORLFaces(DatasetSource):
    """400 portraits of 40 people; the class is the person, and 2 of the 10 portraits of each are test examples.

    These are pictures of real people: for evaluating attacks and defenses only, never to identify anyone. Reports do
    not show the originals.
    """

    name: ClassVar[str] = "orl-faces"
    summary: ClassVar[str] = "ORL (AT&T) faces, 112x92 grey, 40 people, 320 train and 80 test images"
    family: ClassVar[str] = "image"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="orl-faces",
        summary=summary,
        task="classification",
        input_shape=(1, 112, 92),
        classes=tuple(f"s{number}" for number in range(1, 41)),
        bounds=(0.0, 1.0),
        modality="image",
        attributes=(
            Attribute(
                name="subject",
                values=tuple(f"s{number}" for number in range(1, 41)),
                description="the person shown, which is also the label",
            ),
        ),
        public=False,
        source="The ORL (AT&T) Database of Faces, 1992-1994; F. Samaria, A. Harter, WACV 1994",
        licence="free for research with credit to AT&T Laboratories Cambridge",
        natural_clients="subject",
    )

    shrink: Annotated[
        Literal[1, 2, 4], Field(description="factor by which both sides are made smaller, by averaging pixels")
    ] = 1

    def load(self, root: Path | None = None) -> Dataset:
        """Load the faces.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = file_of(self.name, "orl_faces.npz", root)
        arrays = read_arrays(path, dataset=self.name, shapes={"x": (112, 92), "subject": ()})
        x, y = _unit(arrays["x"]).unsqueeze(1), torch.from_numpy(arrays["subject"].astype(np.int64))
        if self.shrink > 1:
            x = functional.avg_pool2d(x, self.shrink)
        everything = Examples(x, y, {"subject": y})
        train, test = stratified_rows(y.numpy(), 80, purpose="orl-faces")
        return build_dataset(
            dataclasses.replace(self.info, input_shape=tuple(x.shape[1:])),
            train=everything.take(torch.from_numpy(train)),
            test=everything.take(torch.from_numpy(test)),
        )
