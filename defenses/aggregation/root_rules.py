"""FLTrust as a defense: the server trains on a few clean examples of its own and trusts what points the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsec import geometry
from fedsec.protocol.stage import Guarantee, RoundContext, Setting
from fedsec.round_geometry import RoundGeometry
from fedsec.threat import Paper

from . import rules
from .rule import RobustRule, Verdict, weighed


@dataclass(frozen=True, kw_only=True)
class FLTrust(RobustRule):
    """FLTrust: updates weigh by their cosine to the update of a root data set, rescaled to its norm.

    The root examples are drawn from the federation's public ones, and the server trains on them with the clients'
    hyper-parameters. Suspicion is ``1 - cosine``. A round in which no update has a positive cosine is skipped.
    """

    root_size: Annotated[int, Field(ge=1, description="Clean examples that the server has; the paper uses 100")] = 100

    name: ClassVar[str] = "fltrust"
    summary: ClassVar[str] = "Weighs updates by their agreement with one that the server trains on clean examples"
    paper: ClassVar[Paper | None] = Paper(
        title="FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping",
        authors="Cao, Fang, Liu, Gong",
        venue="NDSS 2021",
        where="algorithm 2",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the global update, which has the root's norm and no part that points against the root",
        against="any number of malicious updates",
        assuming="the root examples are clean, of the clients' task and like their data; directions that agree "
        "with the root on the whole and add a little of their own pass",
    )
    cost: ClassVar[str] = "n d and one client's training per round at the server; clean examples; rare data are ignored"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Refuses a server without that many clean examples."""
        if setting.public >= self.root_size:
            return ()
        found = f"fltrust needs {self.root_size} clean examples, and the federation sets {setting.public} aside"
        hint = f"`federation.dataset: {{auxiliary: {self.root_size}}}`"
        return ((found, f"set {hint}" + (f", or root_size: {setting.public}" if setting.public else "")),)

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict | None:
        """The trusted mean; reports how many updates are trusted and the root's norm."""
        if context.server is None or context.model is None:
            raise ValueError("fltrust needs a server that holds the model and clean examples")
        root = context.server.train(context.model, context.server.root(self.root_size), draw=context.round)
        rows = round_.rows
        root = root.to(rows)
        share = rules.fltrust_weights(rows, root)
        length = geometry.row_norms(root.unsqueeze(0))[0]
        context.report["root norm"] = float(length)
        if not bool((share > 0).any()):
            return None
        scale = round_.norms * length
        cosines = torch.where(scale > 0, geometry.dots(rows, root) / scale, 0.0).clamp(-1.0, 1.0)
        return weighed(round_, share, 1.0 - cosines)

    def breakdown(self, setting: Setting) -> float | None:
        """Theorem 1 of the paper holds for any number of malicious clients."""
        return 1.0
