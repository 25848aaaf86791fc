"""Models as plugins."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn

from fedsec.data.examples import DatasetInfo
from fedsec.plugin import Plugin


class ModelSource(Plugin):
    """An architecture that fits itself to a dataset."""

    @abstractmethod
    def build(self, info: DatasetInfo) -> nn.Module:
        """A module for this dataset, with its parameters as its constructor draws them.

        The caller makes the draw reproducible (``torch.random.fork_rng`` around the call).
        Normalisation of inputs belongs inside the module.

        Raises:
            ConfigurationError: the architecture cannot read such inputs.
        """
