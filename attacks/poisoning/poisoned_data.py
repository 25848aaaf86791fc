"""What attacks on training data share: who trains on the poisoned examples, and which tasks have classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedsec.data.examples import DatasetInfo
from fedsec.errors import ConfigurationError, Problem
from fedsec.protocol.parties import Adversary

from .texts import Fraction


@dataclass(frozen=True, kw_only=True)
class PoisonedData(Adversary):
    """An adversary that changes what its clients train on, and nothing else."""

    fraction: Fraction = 0.2
    honest_clients: Annotated[
        bool,
        Field(
            description="Whether the clients are honest and only their data were poisoned, so that they run every "
            "defense of the client's side; a malicious client runs none that nobody enforces"
        ),
    ] = False

    @property
    def honest_stages(self) -> bool:
        """Whether its clients run client-enforced stages."""
        return self.honest_clients


def label_count(info: DatasetInfo, name: str) -> int:
    """Number of labels of a task.

    Raises:
        ConfigurationError: it is a regression.
    """
    if info.task == "regression":
        expected, hint = "label flipping needs classes", "Use sign-flip, or a dataset with classes."
        found = f"the regression {info.name}"
        raise ConfigurationError([Problem(path=name, found=found, expected=expected, hint=hint)])
    return info.vocabulary if info.task == "next-token" else len(info.classes)


def refuse(name: str, field: str, found: str, expected: str, hint: str = "") -> ConfigurationError:
    """The error of a parameter that does not fit the dataset."""
    return ConfigurationError([Problem(path=f"{name}.{field}", found=found, expected=expected, hint=hint)])
