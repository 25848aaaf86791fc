"""The sections of ``audit.yaml`` that are not plugins, as pydantic models: the one place of defaults and bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Severity = Literal["low", "medium", "high", "critical"]
Entry = str | dict[str, Any]
"""A plugin: its name, or a mapping with it; checked against the plugin itself."""


class Section(BaseModel):
    """A section of the configuration: unknown keys are refused, nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ServerOptimizer(Section):
    """What the server does with the mean update (Reddi et al., Adaptive Federated Optimization, ICLR 2021)."""

    optimizer: Annotated[Literal["sgd", "adagrad", "adam", "yogi"], Field(description="rule of the server step")] = (
        "sgd"
    )
    learning_rate: Annotated[float, Field(gt=0, description="of the server step")] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="of sgd")] = 0.0
    beta1: Annotated[float, Field(ge=0, lt=1, description="decay of the first moment, but for sgd")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="decay of the second moment, of adam and yogi")] = 0.99
    tau: Annotated[float, Field(gt=0, description="added to the root of the second moment, but for sgd")] = 0.001


class Algorithm(Section):
    """How the server makes one model of the clients' updates."""

    name: Annotated[Literal["fedsgd", "fedavg", "fedprox"], Field(description="the federated algorithm")] = "fedavg"
    weighting: Annotated[
        Literal["examples", "uniform"], Field(description="whether an update weighs as many as its examples, or one")
    ] = "examples"
    proximal: Annotated[float, Field(ge=0, description="FedProx's mu: weight of the proximal term")] = 0.0
    server: Annotated[ServerOptimizer, Field(description="the server's step")] = ServerOptimizer()


class Local(Section):
    """How a client trains in one round."""

    epochs: Annotated[int, Field(ge=1, description="passes over the client's examples")] = 1
    batch_size: Annotated[
        int | None, Field(ge=1, description="examples per step; null for all of them, which is what fedsgd does")
    ] = 32
    optimizer: Annotated[
        Literal["sgd", "momentum", "adagrad", "rmsprop", "adam"], Field(description="rule of the local step")
    ] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, description="of the local step")] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1, description="of the optimizer `momentum`")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty added to the gradient")] = 0.0
    max_steps: Annotated[int | None, Field(ge=1, description="local steps at the most; null for no limit")] = None
    schedule: Annotated[
        Literal["constant", "cosine", "one-cycle"],
        Field(description="of the learning rate over the rounds: constant, falling, or rising for 30 % of them first"),
    ] = "constant"


class Splits(Section):
    """How the examples of a dataset are used; these keys stand beside the dataset's own parameters."""

    train: Annotated[
        int | None, Field(ge=1, description="examples spread over the clients; null for all that the others leave")
    ] = None
    holdout: Annotated[
        int, Field(ge=0, description="examples of the same source that no client holds: non-members and decoys")
    ] = 0
    auxiliary: Annotated[int, Field(ge=0, description="public examples that an adversary may have")] = 0
    test: Annotated[int | None, Field(ge=1, description="examples for utility and robustness; null for all")] = None


class Federation(Section):
    """What is audited."""

    dataset: Annotated[Entry, Field(description="a dataset, or {load: 'module:function'}")]
    partition: Annotated[Entry, Field(description="how the examples are spread over the clients")] = "shuffle"
    model: Annotated[Entry, Field(description="an architecture, or {build: 'module:function'}")]
    algorithm: Annotated[Algorithm, Field(description="a name, or a mapping with it")] = Algorithm()
    clients: Annotated[int, Field(ge=1, description="clients in the population")]
    clients_per_round: Annotated[int | None, Field(ge=1, description="clients that train per round; null for all")] = (
        None
    )
    sampling: Annotated[
        Literal["fixed", "poisson"], Field(description="a cohort of fixed size, or each client by a coin of its own")
    ] = "fixed"
    availability: Annotated[float, Field(gt=0, le=1, description="share of clients reachable in a round")] = 1.0
    dropouts: Annotated[float, Field(ge=0, lt=1, description="share of the cohort that vanishes after training")] = 0.0
    stragglers: Annotated[Share, Field(description="share of the cohort that does only part of its local steps")] = 0.0
    rounds: Annotated[int, Field(ge=1, description="rounds of training")]
    evaluate_every: Annotated[int, Field(ge=1, description="rounds between two evaluations")] = 1
    local: Annotated[Local, Field(description="how a client trains")] = Local()
    precision: Annotated[Literal["float32", "float64"], Field(description="of training and of updates")] = "float32"


class Gate(Section):
    """A condition that the audit must meet; every cell that it names is checked."""

    attack: Annotated[str, Field(description="label of an attack, or * for each")] = "*"
    stack: Annotated[str, Field(description="label of a stack of defenses, or * for each")] = "*"
    metric: Annotated[str, Field(description="`severity`, or the name of a measurement")] = "severity"
    below: Annotated[float | Severity | None, Field(description="the metric must be below this number or severity")] = (
        None
    )
    above: Annotated[float | None, Field(description="the metric must be above this number")] = None


class Report(Section):
    """What the report shows."""

    title: Annotated[str | None, Field(description="null for the configuration's name")] = None
    originals: Annotated[
        Literal["redact", "show"] | None,
        Field(description="whether true examples appear; null redacts them unless the dataset is public"),
    ] = None


class Root(Section):
    """The whole file."""

    version: Annotated[Literal[1], Field(description="of this format")]
    name: Annotated[str, Field(description="title of the audit")] = ""
    federation: Annotated[Federation, Field(description="what is audited")]
    attacks: Annotated[list[Entry], Field(description="attacks, each measured against every stack")]
    defenses: Annotated[
        list[Entry | list[Entry]], Field(description="stacks of defenses; `none` is always measured")
    ] = ["none"]
    seeds: Annotated[
        Annotated[int, Field(ge=1, le=1000)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)],
        Field(description="seeds, or how many"),
    ] = [0, 1, 2]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:0")] = "auto"
    gates: Annotated[list[Gate], Field(description="conditions that the audit must meet")] = []
    report: Annotated[Report, Field(description="what the report shows")] = Report()
