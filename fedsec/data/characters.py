"""Plays of Shakespeare, character by character."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.build import build_dataset, stratified_rows
from fedsec.data.cache import damaged, file_of
from fedsec.data.examples import Attribute, Dataset, DatasetInfo, Examples
from fedsec.data.source import DatasetSource
from fedsec.data.tokens import SPECIAL, Vocabulary

_CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SPEECH = re.compile(r"(?:\A|\n\n)([^\n]+):\n(.*?)(?=\n\n|\n*\Z)", re.DOTALL)


def speeches(text: str) -> dict[str, str]:
    """What each speaker says, speech after speech on lines of their own; speakers in the order of appearance."""
    said: dict[str, list[str]] = {}
    for speaker, words in _SPEECH.findall(text):
        said.setdefault(" ".join(speaker.split()), []).append(words)
    return {speaker: "\n".join(words) for speaker, words in said.items()}


@dataclass(frozen=True, kw_only=True)
class TinyShakespeare(DatasetSource):
    """The next character in plays of Shakespeare; the speaker is a natural client.

    Each speaker's speeches are joined and cut into disjoint windows of ``length + 1`` characters; what is left at the
    end is dropped, and with it the speakers who say less than one window. A tenth of every speaker's windows are test
    examples. A name that occurs in several plays is one speaker: the file does not say where a play ends.
    """

    name: ClassVar[str] = "tinyshakespeare"
    summary: ClassVar[str] = "Next character in plays of Shakespeare, 65 characters, a natural client per speaker"
    family: ClassVar[str] = "text"
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="tinyshakespeare",
        summary=summary,
        task="next-token",
        input_shape=(80,),
        classes=(*SPECIAL, *_CHARACTERS),
        bounds=None,
        modality="text",
        attributes=(
            Attribute(name="speaker", values=(), description="who speaks; the names are filled in when it is loaded"),
        ),
        public=True,
        source="W. Shakespeare; the file of A. Karpathy, The Unreasonable Effectiveness of Recurrent Neural Networks, "
        "2015",
        licence="public domain",
        vocabulary=len(SPECIAL) + len(_CHARACTERS),
        natural_clients="speaker",
    )

    length: Annotated[int, Field(ge=1, le=1024, description="characters per example")] = 80

    def load(self, root: Path | None = None) -> Dataset:
        """Load it; inputs and targets are ``(n, length)``, the targets one character later.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = file_of(self.name, "input.txt", root)
        try:
            said = speeches(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise damaged(self.name, path, str(error)) from error
        windows: list[Tensor] = []
        names: list[str] = []
        owner: list[int] = []
        words = self.words()
        for speaker, text in said.items():
            count = len(text) // (self.length + 1)
            if count:
                cut = count * (self.length + 1)
                windows.append(words.encode([text], length=cut).reshape(count, self.length + 1))
                owner += [len(names)] * count
                names.append(speaker)
        if len(owner) < 10:
            raise damaged(self.name, path, f"it has {len(said)} speakers and {len(owner)} windows")
        tokens, speaker_of = torch.cat(windows), torch.tensor(owner, dtype=torch.int64)
        everything = Examples(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), {"speaker": speaker_of})
        train, test = stratified_rows(np.asarray(owner, dtype=np.int64), len(owner) // 10, purpose=self.name)
        attribute = dataclasses.replace(self.info.attributes[0], values=tuple(names))
        return build_dataset(
            dataclasses.replace(self.info, input_shape=(self.length,), attributes=(attribute,), words=words.words),
            train=everything.take(torch.from_numpy(train)),
            test=everything.take(torch.from_numpy(test)),
        )

    def words(self, root: Path | None = None) -> Vocabulary:
        """The characters, to read token ids with; ``root`` is not used."""
        return Vocabulary((*SPECIAL, *_CHARACTERS))
