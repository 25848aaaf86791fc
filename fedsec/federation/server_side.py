"""The server's own means: a few clean examples, the training that clients do, and a look at how good a model is."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.setup import FederationSetup, whole
from fedsec.randomness import derive_seed, numpy_generator


class Server:
    """See `fedsec.protocol.server.ServerSide`. Trains with the clients' hyper-parameters and without their stages."""

    def __init__(self, setup: FederationSetup, *, seed: int | None = None) -> None:
        """Set up.

        Args:
            setup: the federation.
            seed: of its draws; the federation's by default. With another, its clean examples are others.
        """
        self._setup = setup
        self._seed = setup.seed if seed is None else seed
        self._trainer: CohortTrainer | None = None

    def root(self, count: int) -> Examples:
        """See `ServerSide.root`."""
        public = self._setup.split.auxiliary
        if count > len(public):
            raise ValueError(
                f"the server was to hold {count} clean examples, and federation.dataset.auxiliary is {len(public)}"
            )
        chosen = numpy_generator(self._seed, "root").permutation(len(public))[:count]
        return public.take(torch.from_numpy(chosen))

    def train(self, model: Tensor, examples: Examples, *, draw: int) -> Tensor:
        """See `ServerSide.train`."""
        if self._trainer is None:
            self._trainer = CohortTrainer(self._setup.model, self._setup.local, device=self._setup.device)
        seed = derive_seed(self._seed, "server training", draw)
        return self._trainer.train(model, [whole(examples)], [seed], round_index=draw)[0]

    @torch.no_grad()
    def losses(self, models: Tensor, examples: Examples) -> Tensor:
        """See `ServerSide.losses`."""
        rows = []
        for outputs in self._outputs(models, examples):
            loss = self._setup.model.loss(outputs, examples.y).double()
            rows.append(loss.reshape(len(examples), -1).mean(dim=1))
        return torch.stack(rows)

    @torch.no_grad()
    def right(self, models: Tensor, examples: Examples) -> Tensor:
        """See `ServerSide.right`."""
        rows = [outputs.argmax(-1) == examples.y for outputs in self._outputs(models, examples)]
        return torch.stack([row.reshape(len(examples), -1).all(dim=1) for row in rows])

    def _outputs(self, models: Tensor, examples: Examples) -> list[Tensor]:
        x = examples.x.to(models.dtype) if examples.x.is_floating_point() else examples.x
        return [self._setup.model.instance(vector)(x) for vector in models]
