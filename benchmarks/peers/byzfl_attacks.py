"""byzfl's attacks, one request per line of the input: a JSON object with ``do``, answered by a line of JSON.

``search``: the optimised ALIE and IPM on honest rows in a file, with the seconds of processor time of each. ``damage``:
how far byzfl's rule is moved by vectors, in float64. ``values``: the simple attacks on rows given in the request, in
float64. Rules are made anew for each question, because byzfl's centered clipping keeps its centre from one call to
the next.
"""

import json
import sys
import time

import numpy as np
import torch
from byzfl_package import load

torch.set_num_threads(1)
aggregators, attacks = load()


def rule(request):
    """Pre-aggregators and the rule that a request names."""
    f = request["f"]
    made = {
        "mean": aggregators.Average,
        "coordinate median": aggregators.Median,
        "trimmed mean": lambda: aggregators.TrMean(f=f),
        "mean around median": lambda: aggregators.Meamed(f=f),
        "Krum": lambda: aggregators.Krum(f=f),
        "Multi-Krum": lambda: aggregators.MultiKrum(f=f),
        "geometric median": lambda: aggregators.GeometricMedian(nu=request["nu"], T=request["steps"]),
        "minimum-diameter averaging": lambda: aggregators.MDA(f=f),
        "centered clipping": lambda: aggregators.CenteredClipping(tau=request["tau"]),
    }[request["rule"]]()
    return made, [aggregators.NNM(f=f)] if request["mixed"] else []


def search(request):
    """Vectors of both searches, into files, and their seconds."""
    honest = torch.from_numpy(np.load(request["honest"]))
    found = {}
    for name, kind in (
        ("alie", attacks.Optimal_ALittleIsEnough),
        ("ipm", attacks.Optimal_InnerProductManipulation),
    ):
        made, before = rule(request)
        attack = kind(agg=made, pre_agg_list=before, f=request["f"])
        begin = time.process_time()
        vector = attack(honest)
        found[name] = time.process_time() - begin
        np.save(request["folder"] + f"/{name}.npy", vector.numpy())
    return found


def damage(request):
    """Distance of the rule's result from the honest mean for each vector."""
    honest = np.load(request["honest"]).astype(np.float64)
    found = {}
    for name in request["vectors"]:
        made, before = rule(request)
        vector = np.load(request["folder"] + f"/{name}.npy").astype(np.float64)
        rows = np.concatenate([honest, np.repeat(vector[None], request["f"], axis=0)])
        for step in before:
            rows = step(rows)
        found[name] = float(np.linalg.norm(made(rows) - honest.mean(axis=0)))
    return found


def values(request):
    """Results of the simple attacks."""
    rows = np.array(request["rows"])
    np.random.seed(request["seed"])  # noqa: NPY002 -- the generator that byzfl draws from
    many = attacks.Gaussian(mu=request["mu"], sigma=request["sigma"])(np.zeros((1, 100_000)))
    return {
        "sign_flip": attacks.SignFlipping()(rows).tolist(),
        "ipm": attacks.InnerProductManipulation(tau=request["tau"])(rows).tolist(),
        "alie": attacks.ALittleIsEnough(tau=request["tau"])(rows).tolist(),
        "mimic": attacks.Mimic(epsilon=request["target"])(rows).tolist(),
        "gaussian": [float(many.mean()), float(many.std())],
    }


for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps({"search": search, "damage": damage, "values": values}[asked["do"]](asked)), flush=True)
