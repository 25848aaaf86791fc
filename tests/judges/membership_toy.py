"""A truth with candidates, half of them members, and a model that has seen nobody."""

import torch
from torch import nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.judges.base import Truth
from fedsec.models.flat import FlatModel

INFO = DatasetInfo(
    name="toy",
    summary="",
    task="classification",
    input_shape=(3,),
    classes=("a", "b"),
    bounds=(0.0, 1.0),
    modality="tabular",
)


def truth_of(count=60):
    model = FlatModel.of(nn.Linear(3, 2), task="classification", name="toy")
    generator = torch.Generator().manual_seed(0)
    candidates = Examples(torch.rand(count, 3, generator=generator), torch.randint(2, (count,), generator=generator))
    vector = torch.randn(8, generator=generator)
    return Truth(
        info=INFO,
        model=model,
        released=vector,
        initial=vector,
        behind={},
        test=candidates,
        decoys=candidates,
        candidates=candidates,
        members=torch.arange(count) % 2 == 0,
        property_name="",
        property_share={},
        generator=generator,
    )
