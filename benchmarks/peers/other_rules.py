"""Rules that byzfl lacks, of other packages; requests as in ``byzfl_rules.py``, with a rule's name in the table and f.

Each gets the rows in its own form, made outside the measured call. Nothing of the packages is replaced: only the
``__init__.py`` of those that import everything are not run, and of Ray, which Blades' clients name, an empty module
stands in that raises when anything of it is used.
"""

import importlib.util
import json
import sys
import types

import numpy as np
import torch
from timing import measure

torch.set_num_threads(1)


def bare(name):
    """A package whose own ``__init__.py`` is not run; its modules import as usual."""
    parent, _, _ = name.rpartition(".")
    if parent and parent not in sys.modules:
        bare(parent)
    package = types.ModuleType(name)
    package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
    sys.modules[name] = package


def mda(rows, f):
    """Minimum-diameter averaging of byzpy."""
    from byzpy.aggregators.geometric_wise import MinimumDiameterAveraging

    given = list(torch.from_numpy(rows))
    return lambda: MinimumDiameterAveraging(f=f).aggregate(given)


def bulyan(rows, f):
    """Flower's Bulyan of Krum; it empties the list that it gets."""
    from flwr.server.strategy.aggregate import aggregate_bulyan, aggregate_krum

    def call():
        given = [([row], 1) for row in rows]
        return aggregate_bulyan(given, num_malicious=f, aggregation_rule=aggregate_krum, to_keep=0)[0]

    return call


def foolsgold(rows, f):
    """FedML's FoolsGold weights."""
    if "fedml" not in sys.modules:
        bare("fedml.core.security")
    import sklearn.metrics.pairwise  # noqa: F401  which FedML would import in the measured call
    from fedml.core.security.defense.foolsgold_defense import FoolsGoldDefense

    given = list(rows)
    return lambda: FoolsGoldDefense.fools_gold_score(given)


def fltrust(rows, f):
    """Blades' FLTrust; the server's own update is the first row, which is a client's too."""
    if "blades" not in sys.modules:
        sys.modules["ray"], sys.modules["ray.train"] = types.ModuleType("ray"), types.ModuleType("ray.train")
        sys.modules["ray"].train = sys.modules["ray.train"]
        bare("blades.aggregators")
    from blades.aggregators.fltrust import Fltrust
    from blades.client import BladesClient

    clients = [BladesClient(id=str(i)) for i in range(len(rows) + 1)]
    for client, row in zip(clients, torch.from_numpy(rows[[0, *range(len(rows))]]), strict=True):
        client.save_update(row)
    clients[0].trust()
    return lambda: Fltrust()(clients)


RULES = {"MDA": mda, "Bulyan": bulyan, "FoolsGold": foolsgold, "FLTrust": fltrust}


def values(request):
    """Results for a list of (name, f), in fp32, because Blades knows no other."""
    rows = np.array(request["rows"], dtype=np.float32)
    return [np.asarray(RULES[name](rows.copy(), f)()).tolist() for name, f in request["rules"]]


KEPT = {}


def timed(request):
    """Seconds and extra memory of one call in fp32."""
    name, f = request["rule"]
    key = name, request["rows"]
    if key not in KEPT:
        KEPT.clear()
        KEPT[key] = RULES[name](np.load(request["rows"]), f)
    return measure(KEPT[key], fresh=request["fresh"])


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps({"values": values, "time": timed}[asked["do"]](asked)), flush=True)
