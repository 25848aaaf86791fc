"""Everything that is measured, one after the other: ``python -m benchmarks``."""

import subprocess
import sys

for name in (
    "benchmarks.rounds",
    "benchmarks.memory",
    "benchmarks.population",
    "benchmarks.inversion",
    "benchmarks.aggregation",
    "benchmarks.evasion",
    "benchmarks.auto_attack",
    "benchmarks.adversarial_training",
    "benchmarks.encryption",
    "benchmarks.secure_aggregation",
    "benchmarks.per_sample_gradients",
):
    subprocess.run([sys.executable, "-m", name], check=True)
