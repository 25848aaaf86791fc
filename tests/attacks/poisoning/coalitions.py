"""Coalitions and facts of a toy federation."""

import torch

from fedsec.data.examples import DatasetInfo
from fedsec.models.flat import FlatModel
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import CoalitionView


def facts(*, population=20, cohort=10, knowledge=(), aggregate=None):
    info = DatasetInfo(
        name="toy", summary="", task="classification", input_shape=(2,), classes=tuple("0123456789"), bounds=None,
        modality="tabular",
    )  # fmt: skip
    model = FlatModel.of(torch.nn.Linear(2, 3), task="classification", name="softmax")
    return PublicFacts(
        info=info, model=model, initial=torch.zeros(9), stack=(), population=population, cohort=cohort, rounds=5,
        rule="mean", knowledge=frozenset(knowledge), _aggregate=aggregate,
    )  # fmt: skip


def coalition(own, *, n=20, honest=None, state=None, model=None):
    k, d = own.shape
    return CoalitionView(
        round=0, clients=tuple(range(k)), own=own, weights=torch.ones(k), honest=honest, expected_cohort=n,
        model=torch.zeros(d) if model is None else model, state={} if state is None else state,
        is_sybil=torch.zeros(k, dtype=torch.bool),
    )  # fmt: skip
