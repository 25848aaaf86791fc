"""Text datasets that are read from files: sentences to classify (and, from its own module, characters to predict)."""

from __future__ import annotations

import csv
import dataclasses
import html
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsec.data.build import build_dataset
from fedsec.data.cache import damaged, file_of
from fedsec.data.characters import TinyShakespeare
from fedsec.data.examples import Attribute, Dataset, DatasetInfo, Examples
from fedsec.data.source import DatasetSource
from fedsec.data.tokens import Vocabulary, split_words

__all__ = ["SST2", "AGNews", "CoLA", "SentenceSource", "Sentences", "TinyShakespeare", "read_cells"]

Length = Annotated[int, Field(ge=1, le=1024, description="tokens per example; longer texts are cut, shorter padded")]
Size = Annotated[int, Field(ge=3, le=100_000, description="tokens of the vocabulary, padding and unknown included")]


@dataclass(frozen=True)
class Sentences:
    """Texts before they become token ids.

    Attributes:
        words: of each text.
        labels: class of each text.
        attributes: name to the codes of the texts.
    """

    words: list[list[str]]
    labels: list[int]
    attributes: dict[str, list[int]] = dataclasses.field(default_factory=dict)


def read_cells(path: Path, *, dataset: str, cells: int, quoted: bool) -> list[list[str]]:
    """The cells of a tab-separated file.

    Raises:
        DataError: the file is not text, is empty, or a line has another number of cells.
    """
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
            for row in reader:
                if len(row) != cells:
                    raise damaged(dataset, path, f"line {reader.line_num} has {len(row)} cells, not {cells}")
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise damaged(dataset, path, str(error)) from error
    if not rows:
        raise damaged(dataset, path, "it is empty")
    return rows


def _codes(values: Sequence[str], known: Sequence[str], *, dataset: str, path: Path) -> list[int]:
    position = {value: code for code, value in enumerate(known)}
    try:
        return [position[value] for value in values]
    except KeyError as error:
        raise damaged(dataset, path, f"{error.args[0]!r} is none of {', '.join(known)}") from error


@dataclass(frozen=True, kw_only=True)
class SentenceSource(DatasetSource):
    """Sentences to classify, as token ids over the most frequent words of the train part."""

    family: ClassVar[str] = "text"

    length: Length
    vocabulary: Size

    def load(self, root: Path | None = None) -> Dataset:
        """Load it; the info of the result has the actual length and vocabulary.

        Raises:
            DataError: a file is missing or damaged.
        """
        train, test = self._sentences(root)
        words = Vocabulary.most_frequent(train.words, size=self.vocabulary)
        examples = [
            Examples(
                words.encode(part.words, length=self.length),
                torch.tensor(part.labels, dtype=torch.int64),
                {name: torch.tensor(value, dtype=torch.int64) for name, value in part.attributes.items()},
            )
            for part in (train, test)
        ]
        info = dataclasses.replace(self.info, input_shape=(self.length,), vocabulary=len(words), words=words.words)
        return build_dataset(info, train=examples[0], test=examples[1])

    def words(self, root: Path | None = None) -> Vocabulary:
        """The vocabulary, to read token ids with.

        Raises:
            DataError: a file is missing or damaged.
        """
        return Vocabulary.most_frequent(self._sentences(root)[0].words, size=self.vocabulary)

    @abstractmethod
    def _sentences(self, root: Path | None) -> tuple[Sentences, Sentences]:
        """Train and test texts."""


@dataclass(frozen=True, kw_only=True)
class SST2(SentenceSource):
    """Phrases of film reviews, negative or positive, in the form of GLUE; the test part is its development set.

    Most train rows are phrases of longer sentences, so train rows overlap in text. Words are split at blanks, as the
    corpus comes.
    """

    name: ClassVar[str] = "sst2"
    summary: ClassVar[str] = "Film review phrases (SST-2), 67,349 train and 872 test sentences, two classes"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="sst2",
        summary=summary,
        task="classification",
        input_shape=(32,),
        classes=("negative", "positive"),
        bounds=None,
        modality="text",
        public=True,
        source="R. Socher et al., Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank, "
        "EMNLP 2013; GLUE form, A. Wang et al., 2018",
        licence="none stated, research use",
        vocabulary=8000,
    )

    length: Length = 32
    vocabulary: Size = 8000

    def _sentences(self, root: Path | None) -> tuple[Sentences, Sentences]:
        train, test = (self._read(file_of(self.name, file, root)) for file in ("train.tsv", "validation.tsv"))
        return train, test

    def _read(self, path: Path) -> Sentences:
        rows = read_cells(path, dataset=self.name, cells=2, quoted=False)
        if rows.pop(0) != ["sentence", "label"] or not rows:
            raise damaged(self.name, path, "the first line must be sentence<TAB>label, and sentences must follow")
        labels = _codes([row[1] for row in rows], ("0", "1"), dataset=self.name, path=path)
        return Sentences([row[0].lower().split() for row in rows], labels)


_IN_DOMAIN = (
    "ad03", "b_73", "b_82", "bc01", "c_13", "cj99", "d_98", "g_81", "gj04", "kl93", "ks08", "l-93", "m_02", "r-67",
    "rhl07", "sgww85", "sks13",
)  # fmt: skip
_OUT_OF_DOMAIN = ("c-05", "clc95", "j_71", "s_97", "swb04", "w_80")


@dataclass(frozen=True, kw_only=True)
class CoLA(SentenceSource):
    """Sentences of linguistics publications, acceptable English or not; the publication is a natural client.

    The test part is both development sets, in-domain and out-of-domain, as in GLUE; its out-of-domain sentences come
    from publications that the train part does not have.
    """

    name: ClassVar[str] = "cola"
    summary: ClassVar[str] = "Linguistic acceptability (CoLA), 8,551 train and 1,043 test sentences, 17 publications"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="cola",
        summary=summary,
        task="classification",
        input_shape=(24,),
        classes=("unacceptable", "acceptable"),
        bounds=None,
        modality="text",
        attributes=(
            Attribute(
                name="publication",
                values=_IN_DOMAIN + _OUT_OF_DOMAIN,
                description="the publication that a sentence was taken from; the last six only in the test part",
            ),
        ),
        public=True,
        source="A. Warstadt, A. Singh, S. Bowman, Neural Network Acceptability Judgments, TACL 2019",
        licence="fair-use research statement",
        vocabulary=4000,
        natural_clients="publication",
    )

    length: Length = 24
    vocabulary: Size = 4000

    def _sentences(self, root: Path | None) -> tuple[Sentences, Sentences]:
        train, near, far = (
            self._read(file_of(self.name, f"{part}.tsv", root))
            for part in ("in_domain_train", "in_domain_dev", "out_of_domain_dev")
        )
        publications = near.attributes["publication"] + far.attributes["publication"]
        test = Sentences(near.words + far.words, near.labels + far.labels, {"publication": publications})
        return train, test

    def _read(self, path: Path) -> Sentences:
        rows = read_cells(path, dataset=self.name, cells=4, quoted=False)
        publications = self.info.attributes[0].values
        return Sentences(
            [split_words(row[3]) for row in rows],
            _codes([row[1] for row in rows], ("0", "1"), dataset=self.name, path=path),
            {"publication": _codes([row[0] for row in rows], publications, dataset=self.name, path=path)},
        )


@dataclass(frozen=True, kw_only=True)
class AGNews(SentenceSource):
    """News descriptions in four topics: 10,001 of the 120,000 official train rows, and the official test part.

    Figures on it must not be compared with published figures on all train rows.
    """

    name: ClassVar[str] = "ag-news"
    summary: ClassVar[str] = "News topics (AG News), 10,001 train and 7,600 test texts, four classes"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="ag-news",
        summary=summary,
        task="classification",
        input_shape=(48,),
        classes=("World", "Sports", "Business", "Sci/Tech"),
        bounds=None,
        modality="text",
        public=True,
        source="X. Zhang, J. Zhao, Y. LeCun, Character-level Convolutional Networks for Text Classification, "
        "NIPS 2015; corpus by A. Gulli (subset)",
        licence="non-commercial research",
        vocabulary=10_000,
    )

    length: Length = 48
    vocabulary: Size = 10_000

    def _sentences(self, root: Path | None) -> tuple[Sentences, Sentences]:
        train, test = (self._read(file_of(self.name, file, root)) for file in ("train_subset.tsv", "test.tsv"))
        return train, test

    def _read(self, path: Path) -> Sentences:
        rows = read_cells(path, dataset=self.name, cells=2, quoted=True)
        labels = _codes([row[1] for row in rows], self.info.classes, dataset=self.name, path=path)
        return Sentences([split_words(_plain(row[0])) for row in rows], labels)


def _plain(text: str) -> str:
    """AG News without its marks: line breaks written as backslashes, entities with a blank for their ampersand."""
    apostrophes = text.replace("\\", " ").replace(" #39;", "'")
    return html.unescape(re.sub(r"(?<!&)#(\d+);", r"&#\1;", apostrophes))
