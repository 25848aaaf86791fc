"""byzfl's rules and pre-aggregators, one request per line of the input, a JSON object with ``do``.

``values``: results on rows given in the request, in float64. ``time``: processor seconds and extra memory of a call on
rows in a file. Pre-aggregators of byzfl that write into their input get a copy.
"""

import json
import sys

import numpy as np
import torch
from byzfl_package import load
from timing import measure

torch.set_num_threads(1)
aggregators, _ = load()


def made(name, parameters):
    """A rule by name; made anew for each call, because centered clipping keeps its centre."""
    return getattr(aggregators, name)(**parameters)


def values(request):
    """Results for a list of (name, parameters)."""
    rows = np.array(request["rows"])
    return [np.asarray(made(name, parameters)(rows.copy())).tolist() for name, parameters in request["rules"]]


KEPT = {}


def timed(request):
    """Seconds and extra memory of one call in fp32."""
    path = request["rows"]
    if path not in KEPT:
        KEPT.clear()
        KEPT[path] = torch.from_numpy(np.load(path))
    rule = made(*request["rule"])
    return measure(lambda: rule(KEPT[path].clone() if request["copy"] else KEPT[path]), fresh=request["fresh"])


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps({"values": values, "time": timed}[asked["do"]](asked)), flush=True)
