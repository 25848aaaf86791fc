"""A population of a million clients: seconds until its first round is trained.

``python -m benchmarks.population`` writes ``docs/results/population.json``. Clients hold 20 of 60,000 synthetic
28x28 images each, drawn with replacement; 10 of them train an MLP 784-200-10 in a round.
"""

import json
import resource
import time
from pathlib import Path

import torch

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.data.partitions import WithReplacement
from fedsec.data.split import Split
from fedsec.federation.population import Participation
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.federation.training import LocalTraining
from fedsec.models.dense import MLP
from fedsec.models.flat import FlatModel
from fedsec.randomness import generator, numpy_generator

RESULTS = Path(__file__).parents[1] / "docs" / "results"
CLIENTS = 1_000_000
INFO = DatasetInfo(
    name="synthetic",
    summary="Uniform noise with random labels",
    task="classification",
    input_shape=(1, 28, 28),
    classes=tuple("0123456789"),
    bounds=(0.0, 1.0),
    modality="image",
)


def main():
    """Measure and write the results."""
    torch.set_num_threads(1)
    random = generator("population benchmark")
    x = torch.rand(60_000, 1, 28, 28, generator=random)
    pool = Examples(x, torch.randint(10, (60_000,), generator=random))
    few = pool.take(range(100))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    partition = WithReplacement(size=20)
    index = partition.assign(pool, CLIENTS, generator=numpy_generator("population benchmark"))
    spread = time.perf_counter() - started
    model = FlatModel.of(MLP(hidden=(200,)).build(INFO), task="classification", name="mlp")
    setup = FederationSetup(
        info=INFO,
        fingerprint="",
        split=Split(pool, few, few, few),
        index=index,
        partition=partition,
        model=model,
        initial=model.vector(),
        participation=Participation(clients_per_round=10, availability=0.5, dropouts=0.05),
        local=LocalTraining(epochs=1, batch_size=10, learning_rate=0.1),
        weighting="examples",
        server=ServerStep(),
        rounds=1,
        evaluate_every=1,
        seed=0,
    )
    result = Federation(setup).run()
    seconds = time.perf_counter() - started
    document = {
        "clients": CLIENTS,
        "seconds until the first round is over": round(seconds, 2),
        "seconds to spread the data": round(spread, 2),
        "MiB above the data": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024, 1),
        "uploads": result.ledger.uploads,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "population.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))
    if seconds >= 5:
        raise SystemExit("a population of a million clients must start in under 5 seconds")


if __name__ == "__main__":
    main()
