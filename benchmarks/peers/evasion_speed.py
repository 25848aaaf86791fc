"""PGD on one network by each library: ``python evasion_speed.py EXCHANGE``.

Reads names of libraries line by line and answers each with the processor seconds of one attack on all images.
"""

import json
import sys
import time

import numpy as np
import torch
from evasion_package import PEERS, network

torch.set_num_threads(1)


def main(exchange):
    """Answer requests until there are none."""
    held = np.load(exchange)
    given = json.loads(str(held["given"]))
    batches = list(zip(*(torch.from_numpy(held[name]).split(given["batch"]) for name in "xy"), strict=True))
    peers = {name: made(network("reference", str(held["weights"]))) for name, made in PEERS.items()}
    settings = {name: given[name] for name in ("eps", "step", "steps")}
    for line in sys.stdin:
        name = line.strip()
        begin = time.process_time()
        for x, y in batches:
            peers[name].pgd(x, y, **settings)
        print(time.process_time() - begin, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
