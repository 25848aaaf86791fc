import gzip
import struct

import numpy as np
import pytest
import torch

from fedsec.data.images import CIFAR10, MNIST, ORLFaces, read_idx
from fedsec.errors import DataError


def write_idx(path, array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0))


@pytest.fixture
def root(tmp_path):
    """A folder with small files in the real formats."""
    draw = np.random.default_rng(0)
    for part, rows in (("train", 40), ("t10k", 20)):
        (tmp_path / "mnist").mkdir(exist_ok=True)
        write_idx(tmp_path / f"mnist/{part}-images-idx3-ubyte.gz", draw.integers(0, 256, (rows, 28, 28)))
        write_idx(tmp_path / f"mnist/{part}-labels-idx1-ubyte.gz", np.arange(rows) % 10)
    (tmp_path / "cifar10").mkdir()
    pixels = draw.integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
    labels = (np.arange(1000) % 10).astype(np.uint8)
    np.savez(tmp_path / "cifar10/cifar10_train_first4000.npz", x=pixels, y=labels, classes=np.array(["a"]))
    np.savez(
        tmp_path / "cifar10/cifar10_jpeg_10k_2k.npz",
        x_train=pixels[:40], y_train=labels[:40], x_test=pixels[40:60], y_test=labels[40:60],
    )  # fmt: skip
    (tmp_path / "faces-orl").mkdir()
    np.savez(
        tmp_path / "faces-orl/orl_faces.npz",
        x=draw.integers(0, 256, (400, 112, 92), dtype=np.uint8),
        subject=np.repeat(np.arange(40, dtype=np.uint8), 10),
    )
    return tmp_path


def test_idx_images_keep_order_and_values(root):
    data = MNIST().load(root)
    raw = read_idx(root / "mnist/train-images-idx3-ubyte.gz", dataset="mnist", dimensions=3)
    assert np.array_equal((data.train.x.squeeze(1).numpy() * 255).round(), raw)
    assert data.train.y.tolist() == [number % 10 for number in range(40)]
    assert int(data.train.attributes["ink"].sum()) == 20


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"not gzip", "gzip"),
        (gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 2, 28, 28), mtime=0)[:-9], "damaged"),
        (gzip.compress(b"\0\0\x0d\x03" + struct.pack(">3I", 0, 28, 28), mtime=0), "header"),
        (gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 2, 28, 28) + b"x" * 5, mtime=0), "5 bytes follow"),
        (gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 1, 28, 28) + b"x" * 784, mtime=0), "40 labels"),
        (b"", "header"),
    ],
)
def test_damaged_idx_files_are_named(root, content, word):
    path = root / "mnist/train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=word) as caught:
        MNIST().load(root)
    assert str(path) in str(caught.value)
    assert "fedsec data fetch mnist" in str(caught.value)


def test_a_missing_file_is_named(root):
    (root / "mnist/t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels"):
        MNIST().load(root)


def test_cifar_variants(root):
    exact = CIFAR10().load(root)
    assert tuple(exact.train.x.shape) == (200, 3, 32, 32)
    assert torch.bincount(exact.test.y).tolist() == [80] * 10
    jpeg = CIFAR10(variant="jpeg").load(root)
    assert (len(jpeg.train), len(jpeg.test)) == (40, 20)
    with np.load(root / "cifar10/cifar10_jpeg_10k_2k.npz") as raw:
        expected = raw["x_train"][3, 5, 7] / np.float32(255)
    assert np.array_equal(jpeg.train.x[3, :, 5, 7].numpy(), expected)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
def test_damaged_archives_are_named(root, content):
    path = root / "faces-orl/orl_faces.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"orl_faces\.npz is damaged"):
        ORLFaces().load(root)


def test_an_archive_with_other_arrays_is_refused(root):
    np.savez(root / "faces-orl/orl_faces.npz", x=np.zeros((4, 10, 10), dtype=np.uint8))
    with pytest.raises(DataError, match="array 'x' is uint8"):
        ORLFaces().load(root)


def test_every_person_is_in_both_parts(root):
    data = ORLFaces().load(root)
    assert torch.bincount(data.train.y).tolist() == [8] * 40
    assert torch.bincount(data.test.y).tolist() == [2] * 40
    assert torch.equal(data.train.attributes["subject"], data.train.y)
    assert not data.info.public


def test_shrinking_averages_pixels(root):
    full, small = ORLFaces().load(root), ORLFaces(shrink=4).load(root)
    assert small.info.input_shape == (1, 28, 23)
    assert float(small.train.x[5, 0, 2, 3]) == pytest.approx(float(full.train.x[5, 0, 8:12, 12:16].mean()), abs=1e-5)
