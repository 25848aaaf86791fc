"""Our rules, one request per line of the input, as ``peers/byzfl_rules.py``: processor seconds and extra memory."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fedsec.defenses import aggregation as ours

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from timing import measure


def rule(name, n):
    """A rule by its name in the table, for ``n`` rows of which a fifth may be arbitrary."""
    f = n // 5
    return {
        "mean": ours.mean,
        "coordinate median": ours.coordinate_median,
        "trimmed mean": partial(ours.trimmed_mean, f=f),
        "mean around median": partial(ours.mean_around_median, f=f),
        "Krum": partial(ours.krum, f=f),
        "Multi-Krum": partial(ours.multi_krum, f=f),
        "geometric median, 3 steps": partial(
            ours.geometric_median, nu=0.1, iterations=3, start="origin", tolerance=0.0
        ),
        "geometric median, converged": ours.geometric_median,
        "centered clipping": partial(ours.centered_clipping, tau=100.0),
        "NNM": partial(ours.nearest_neighbor_mixing, f=f),
        "bucketing": partial(ours.bucketing, s=2, generator=torch.Generator().manual_seed(0)),
        "clipping": partial(ours.clip_norms, c=2.0),
        "ARC": partial(ours.adaptive_clipping, f=f),
        "MDA": partial(ours.minimum_diameter_averaging, f=f),
        "Bulyan": partial(ours.bulyan, f=(n - 3) // 4),
        "FoolsGold": ours.foolsgold_weights,
        "FLTrust": lambda U: ours.fltrust(U, U[0]),
        "DnC": partial(ours.divide_and_conquer, f=f, generator=torch.Generator().manual_seed(0)),
    }[name]


def large(name, n, d):
    """One call on rows that this process makes itself; the highest resident set is that of the whole process."""
    U = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    return measure(lambda: rule(name, n)(U)) | {"input": 4 * n * d}


if __name__ == "__main__":
    torch.set_num_threads(1)
    kept = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "large":
            answer = large(asked["rule"], asked["n"], asked["d"])
        else:
            path = asked["rows"]
            if path not in kept:
                kept.clear()
                kept[path] = torch.from_numpy(np.load(path))
            answer = measure(lambda U=kept[path], name=asked["rule"]: rule(name, len(U))(U), fresh=asked["fresh"])
        print(json.dumps(answer), flush=True)
