"""What torchattacks, foolbox and ART make of given images: ``python evasion_values.py EXCHANGE OUTPUT``.

The exchange file (npz) holds images ``x``, classes ``y``, the kind of network and the file of its weights, and a list
of calls ``[label, peer, attack, parameters]``. The output holds for every label the images, those from which the
steps began (``start/LABEL``), and how many images passed through the network and through its gradient
(``passes/LABEL``).
"""

import json
import sys

import numpy as np
import torch
from evasion_package import PEERS, network

torch.set_num_threads(1)


def main(exchange, output):
    """Run every call."""
    held = np.load(exchange)
    x, y = torch.from_numpy(held["x"]), torch.from_numpy(held["y"])
    made = {}
    for label, peer, attack, given in json.loads(str(held["calls"])):
        net = network(str(held["kind"]), str(held["weights"]))
        passes = [0, 0]
        net[0].register_forward_hook(
            lambda _, inputs, __, passes=passes: passes.__setitem__(0, passes[0] + len(inputs[0]))
        )
        net[-1].register_full_backward_pre_hook(
            lambda _, grads, passes=passes: passes.__setitem__(1, passes[1] + len(grads[0]))
        )
        found, start = getattr(PEERS[peer](net), attack)(x, y, **given)
        made[label], made[f"start/{label}"] = found.detach().numpy(), start.detach().numpy()
        made[f"passes/{label}"] = np.array(passes)
    np.savez(output, **made)


if __name__ == "__main__":
    main(*sys.argv[1:])
